package guard

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"gateway/board"
)

// takeLimit is how long a line that somebody else holds is tried for. The kernel needs a moment
// to release the lines of a dead gateway.
const takeLimit = 5 * time.Second

// strayLimit is how long a guard that has just taken over is deaf: a SIGTERM that was sent to all
// before the gateway died may be on its way yet. TakeOver repeats its signal for much longer.
const strayLimit = 50 * time.Millisecond

// Watch is the life of the guard process. It reads its lines from in and says on out that it is
// ready. When in ends with a farewell, it returns. When in just ends, it takes the lines at
// their safe levels and holds them until SIGTERM.
func Watch(in io.Reader, out io.Writer, dataDir string, b board.Board, log *slog.Logger) error {
	// Ctrl-C and the end of a service or terminal are for the gateway. A closed standard error
	// must not end the one who has to act now.
	signal.Ignore(unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	term := make(chan os.Signal, 1) // one is as good as many
	signal.Notify(term, unix.SIGTERM)
	defer signal.Stop(term)

	held, err := lock(dataDir)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	defer held.Close()
	r := bufio.NewReader(in)
	lines, err := readOrder(r)
	if err != nil {
		return fmt.Errorf("guard: read the list of outputs: %w", err)
	}
	if _, err := io.WriteString(out, ready); err != nil {
		return fmt.Errorf("guard: %w", err)
	}

	word, err := r.ReadString('\n') // for all the life of the gateway
	if word == farewell || len(lines) == 0 {
		return nil
	}
	log.Warn("the gateway has died: the guard drives its outputs to their safe levels", "outputs", len(lines), "cause", err)
	return hold(lines, b, term, log)
}

// hold takes the lines at their safe levels, and lets go of them at a signal.
func hold(lines []board.LineConfig, b board.Board, term <-chan os.Signal, log *slog.Logger) (err error) {
	var held []board.Line
	defer func() {
		for _, l := range held {
			err = errors.Join(err, l.Close())
		}
	}()
	var listen <-chan os.Signal // nil: deaf
	stray, deadline := time.After(strayLimit), time.After(takeLimit)
	for {
		taken, missing, faults := take(lines, b)
		held, lines = append(held, taken...), missing
		var again <-chan time.Time
		if len(lines) > 0 {
			again = time.After(retryPause)
		}
		select {
		case <-listen:
			return nil
		case <-stray:
			select {
			case <-term:
			default:
			}
			listen = term
		case <-deadline:
			if len(lines) > 0 {
				log.Error("the guard could not make every output safe", "error", faults)
				lines = nil
			}
		case <-again:
		}
	}
}

// take takes the lines that can be taken.
func take(lines []board.LineConfig, b board.Board) (taken []board.Line, missing []board.LineConfig, faults error) {
	for _, c := range lines {
		l, err := b.Line(c)
		if err != nil {
			missing = append(missing, c)
			faults = errors.Join(faults, err)
			continue
		}
		taken = append(taken, l)
	}
	return taken, missing, faults
}
