// Package guard keeps outputs safe when the gateway dies, however it dies.
//
// The kernel releases the lines of a dead process, and on many boards they float then. So the
// gateway starts a second, tiny process, the guard, and tells it over a pipe which outputs there
// are and what their safe levels are. While the pipe is open the guard touches nothing. When it
// ends without a word of farewell, the guard takes the lines, drives them to their safe levels,
// and holds them until the next gateway asks it to let go.
//
// The next gateway finds the guard by a lock file in its data folder, which the guard holds for
// as long as it lives.
package guard

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gateway/board"
)

// Command is the first argument of a guard process, the data folder the second.
const Command = "guard"

// The words on the two pipes.
const (
	ready    = "ready\n" // the guard watches
	farewell = "end\n"   // the gateway ends and has left its outputs safe
)

const (
	startLimit    = 5 * time.Second // for a guard to say that it watches
	farewellLimit = 3 * time.Second // for a guard to end when it is not needed any more
	takeOverLimit = time.Second     // for a guard to let go of its lines
	restartPause  = time.Second     // before a guard that died is replaced
	retryPause    = 5 * time.Millisecond
)

// A Guard is the gateway's end of a running guard process. A guard that dies is replaced.
type Guard struct {
	start func() (*process, error)
	log   *slog.Logger

	release chan struct{} // closed by Release
	done    chan struct{} // closed when no guard runs any more
	once    sync.Once
	err     error // of the farewell; valid after done
}

// A process is one guard process.
type process struct {
	cmd    *exec.Cmd
	pipe   io.WriteCloser
	exited chan error // gets the end of the process; size 1, so that nobody has to take it
}

// Start starts the guard process: exe with the arguments Command and dataDir. It returns when
// the guard watches, usually within milliseconds. lines are the outputs; Initial is the safe
// level.
//
// A guard of a gateway that was killed must be asked to let go before, by TakeOver.
func Start(exe, dataDir string, lines []board.LineConfig, log *slog.Logger) (*Guard, error) {
	for _, l := range lines {
		if !l.Output {
			return nil, fmt.Errorf("guard: line %s is no output", l.Name)
		}
	}
	dir, err := filepath.Abs(dataDir)
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	order, err := json.Marshal(lines)
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	g := &Guard{
		start:   func() (*process, error) { return startProcess(exe, dir, append(order, '\n')) },
		log:     log,
		release: make(chan struct{}),
		done:    make(chan struct{}),
	}
	p, err := g.start()
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	go g.keep(p)
	return g, nil
}

// startProcess starts a guard and waits until it watches.
func startProcess(exe, dir string, order []byte) (*process, error) {
	cmd := exec.Command(exe, Command, dir)
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	// One thread of Go code and early garbage collection: the guard waits all its life.
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=25")
	// A session of its own: neither Ctrl-C nor the end of the terminal reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	answer, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, pipe: pipe, exited: make(chan error, 1)}
	late := time.AfterFunc(startLimit, func() { cmd.Process.Kill() }) // ends the reading below
	defer late.Stop()
	_, err = pipe.Write(order)
	if err == nil {
		err = expect(answer, ready)
	}
	if err != nil {
		cmd.Process.Kill()
		return nil, fmt.Errorf("the guard process does not start: %w", errors.Join(err, cmd.Wait()))
	}
	go func() { p.exited <- cmd.Wait() }()
	return p, nil
}

func expect(r io.Reader, word string) error {
	got := make([]byte, len(word))
	if _, err := io.ReadFull(r, got); err != nil {
		return err
	}
	if string(got) != word {
		return fmt.Errorf("it says %q", got)
	}
	return nil
}

// keep replaces a guard that dies until Release is called.
func (g *Guard) keep(p *process) {
	defer close(g.done)
	for {
		if p != nil {
			select {
			case <-g.release:
				g.err = p.end()
				return
			case err := <-p.exited:
				g.log.Error("the guard process has died: outputs are not safe if the gateway dies now", "cause", err)
			}
		}
		select {
		case <-g.release:
			return
		case <-time.After(restartPause):
		}
		var err error
		if p, err = g.start(); err != nil {
			g.log.Debug("guard", "error", err)
			continue
		}
		g.log.Info("the guard process is back")
	}
}

// end says farewell and waits until the guard has gone.
func (p *process) end() error {
	_, err := io.WriteString(p.pipe, farewell)
	if closing := p.pipe.Close(); !errors.Is(closing, os.ErrClosed) { // Wait closes it too
		err = errors.Join(err, closing)
	}
	select {
	case exit := <-p.exited:
		return errors.Join(err, exit)
	case <-time.After(farewellLimit):
		return errors.Join(err, p.cmd.Process.Kill(), <-p.exited)
	}
}

// Release ends the guard. Call it last, when the outputs are safe and their lines closed.
func (g *Guard) Release() error {
	g.once.Do(func() { close(g.release) })
	<-g.done
	if g.err != nil {
		return fmt.Errorf("guard: release: %w", g.err)
	}
	return nil
}

// lockFile is locked by the guard for as long as it lives. The kernel tells who has the lock.
func lockFile(dataDir string) string { return filepath.Join(dataDir, "guard.lock") }

// TakeOver asks the guard of a gateway that was killed to let go of its lines, and returns when
// it has, at most a second later. Take the lines at once then, at their safe levels.
func TakeOver(dataDir string) error {
	f, err := os.Open(lockFile(dataDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("guard: take over: %w", err)
	}
	defer f.Close()
	for deadline := time.Now().Add(takeOverLimit); ; time.Sleep(retryPause) {
		l := unix.Flock_t{Type: unix.F_RDLCK}
		if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &l); err != nil {
			return fmt.Errorf("guard: take over: %w", err)
		}
		if l.Type == unix.F_UNLCK {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("guard: process %d does not let go of the outputs: is another gateway running on %s?", l.Pid, dataDir)
		}
		// Again and again: a guard that has not yet noticed the end of its gateway does not
		// listen.
		if err := unix.Kill(int(l.Pid), unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("guard: take over from process %d: %w", l.Pid, err)
		}
	}
}

// lock takes the lock file for as long as the file is open.
func lock(dataDir string) (*os.File, error) {
	f, err := os.OpenFile(lockFile(dataDir), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		err = errors.New("another guard is running on this data folder")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// readOrder reads which lines there are.
func readOrder(r *bufio.Reader) (lines []board.LineConfig, err error) {
	text, err := r.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	return lines, json.Unmarshal(text, &lines)
}
