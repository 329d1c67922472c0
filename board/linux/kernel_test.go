package linux

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warthog618/go-gpiosim"

	"gateway/board"
	"gateway/board/guard"
	"gateway/internal/vm"
)

// TestInKernel runs the tests whose names begin with TestSim in a kernel that has GPIO chips.
func TestInKernel(t *testing.T) { vm.Run(t, "^TestSim[A-Z]") }

// The lines of the chip that all tests use, by offset. It is there before periph.io looks.
var named = []string{
	"IN", "OUT", "RELAY", "BUTTON", "BUSY", "HEATER", "VALVE", "TWICE", "PAIR", "PAIR",
}

const unnamed = 16 // an offset without a name

// chips are the simulated chips: one for all, and one to be unplugged once periph.io knows it.
var chips struct {
	main, plug *gpiosim.Sim
	board      *Board
}

// TestMain plays the other programs that the tests need: see role.
func TestMain(m *testing.M) {
	if part := role(); part != nil {
		if err := part(); err != nil {
			fmt.Fprintln(os.Stderr, "test program:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if vm.Inside() {
		if err := setUp(); err != nil {
			fmt.Fprintln(os.Stderr, "simulated chips:", err)
			os.Exit(1)
		}
	}
	code := m.Run()
	if vm.Inside() {
		chips.main.Close()
	}
	os.Exit(code)
}

func setUp() (err error) {
	var lines []gpiosim.NewBankOption
	for i, name := range named {
		lines = append(lines, gpiosim.WithNamedLine(i, name))
	}
	if chips.main, err = gpiosim.NewSim(gpiosim.WithBank(gpiosim.NewBank("board", 24, lines...))); err != nil {
		return err
	}
	plug := gpiosim.NewBank("expander", 4, gpiosim.WithNamedLine(0, "PLUG"), gpiosim.WithNamedLine(3, "TWICE"))
	if chips.plug, err = gpiosim.NewSim(gpiosim.WithBank(plug)); err != nil {
		return err
	}
	// A second name for a chip, as on a Raspberry Pi.
	if err := os.Symlink(chips.main.Chips[0].DevPath(), "/dev/gpiochip9"); err != nil {
		return err
	}
	chips.board, err = New(quiet())
	return err
}

// role returns what this process is to do when it is not the test: to be the guard, to be a
// gateway that drives VALVE low and HEATER high, or to hold lines.
func role() func() error {
	if len(os.Args) == 3 && os.Args[1] == guard.Command {
		return func() error {
			b, err := New(quiet())
			if err != nil {
				return err
			}
			return guard.Watch(os.Stdin, os.Stdout, os.Args[2], b, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		}
	}
	if dir := os.Getenv("LINUX_TEST_GATEWAY"); dir != "" {
		return func() error { return gateway(dir) }
	}
	if name := os.Getenv("LINUX_TEST_HOLD"); name != "" {
		return func() error { return holdLine(name) }
	}
	return nil
}

// up says that the program has done what it was started for, and waits for the end of its input.
func up() error {
	fmt.Println("up")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func holdLine(name string) error {
	b, err := New(quiet())
	if err != nil {
		return err
	}
	l, err := b.Line(board.LineConfig{Name: name, Output: true})
	if err != nil {
		return err
	}
	return errors.Join(up(), l.Close())
}

// guarded are a heater that is safe when low and a valve that is safe when high.
var guarded = []board.LineConfig{
	{Name: "HEATER", Output: true},
	{Name: "VALVE", Output: true, Initial: true},
}

func gateway(dir string) error {
	if err := guard.TakeOver(dir); err != nil {
		return err
	}
	b, err := New(quiet())
	if err != nil {
		return err
	}
	var lines []board.Line
	for _, c := range guarded {
		l, err := b.Line(c)
		if err != nil {
			return err
		}
		lines = append(lines, l)
	}
	g, err := guard.Start(os.Args[0], dir, guarded, quiet())
	if err != nil {
		return err
	}
	for i, l := range lines {
		if err := l.Set(!guarded[i].Initial); err != nil {
			return err
		}
	}
	if err := up(); err != nil {
		return err
	}
	for i, l := range lines {
		if err := errors.Join(l.Set(guarded[i].Initial), l.Close()); err != nil {
			return err
		}
	}
	return g.Release()
}

// start runs this binary in another role until it is up. end ends it and returns its fault.
func start(t *testing.T, env string) (c *exec.Cmd, end func() error) {
	t.Helper()
	c = exec.Command(os.Args[0])
	c.Env = append(os.Environ(), env)
	c.Stderr = os.Stderr
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill() })
	if word, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || word != "up\n" {
		t.Fatalf("the other program is not up: %q %v %v", word, err, c.Wait())
	}
	return c, func() error {
		stdin.Close()
		return c.Wait()
	}
}

// trace returns what the kernel did to lines while f ran, as "set 1" or "out", in order.
func trace(t *testing.T, f func()) []string {
	t.Helper()
	const dir = "/sys/kernel/debug/tracing/"
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(dir+file, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	write("trace", "")
	write("events/gpio/enable", "1")
	f()
	write("events/gpio/enable", "0")
	text, err := os.ReadFile(dir + "trace")
	if err != nil {
		t.Fatal(err)
	}
	var events []string
	for line := range strings.Lines(string(text)) {
		// "... gpio_value: 513 set 1", "... gpio_direction: 513 out (0)"
		if _, event, ok := strings.Cut(line, ": gpio_"); ok {
			words := strings.Fields(event)
			events = append(events, strings.TrimSuffix(strings.Join(words[2:], " "), " (0)"))
		}
	}
	return events
}

func wantTrace(t *testing.T, what string, want []string, f func()) {
	t.Helper()
	if got := trace(t, f); !slices.Equal(got, want) {
		t.Errorf("%s: the kernel did %q, want %q", what, got, want)
	}
}

func pull(t *testing.T, offset int, high bool) {
	t.Helper()
	level := 0
	if high {
		level = 1
	}
	if err := chips.main.Chips[0].SetPull(offset, level); err != nil {
		t.Fatal(err)
	}
}

// outside returns the level that a voltmeter would see.
func outside(t *testing.T, offset int) bool {
	t.Helper()
	level, err := chips.main.Chips[0].Level(offset)
	if err != nil {
		t.Fatal(err)
	}
	return level != 0
}

func offsetOf(name string) int { return slices.Index(named, name) }

// until polls, because the kernel and other processes have no other way to tell.
func until(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
