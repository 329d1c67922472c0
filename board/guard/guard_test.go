package guard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/board"
	"gateway/board/guard"
)

// The test binary plays three parts: the test, the gateway, and the guard.
func TestMain(m *testing.M) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch {
	case len(os.Args) == 3 && os.Args[1] == guard.Command:
		b := fileBoard(os.Args[2])
		if err := guard.Watch(os.Stdin, os.Stdout, os.Args[2], b, log); err != nil {
			log.Error("guard", "error", err)
			os.Exit(1)
		}
	case os.Getenv("GUARD_TEST_GATEWAY") != "":
		// Nobody reads what it would log.
		if err := gateway(os.Getenv("GUARD_TEST_GATEWAY"), slog.New(slog.DiscardHandler)); err != nil {
			os.WriteFile(filepath.Join(os.Getenv("GUARD_TEST_GATEWAY"), "fault"), []byte(err.Error()), 0o600)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

// A fileBoard has one file for each line: its lock says who holds the line, its text what the
// level is. As with the kernel's lines, the lock ends with its process.
type fileBoard string

func (b fileBoard) Port(board.PortConfig) (board.Port, error) { return nil, errors.ErrUnsupported }

func (b fileBoard) Line(c board.LineConfig) (board.Line, error) {
	f, err := os.OpenFile(filepath.Join(string(b), c.Name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, board.ErrBusy
	}
	l := fileLine{f}
	return l, l.Set(c.Initial)
}

type fileLine struct{ f *os.File }

func (l fileLine) Get() (bool, error)                 { return false, errors.ErrUnsupported }
func (l fileLine) Wait(context.Context) (bool, error) { return false, errors.ErrUnsupported }
func (l fileLine) Close() error                       { return l.f.Close() }

func (l fileLine) Set(on bool) error {
	_, err := l.f.WriteAt(fmt.Appendf(nil, "%-5t by %d\n", on, os.Getpid()), 0)
	return err
}

// outputs are a heater that is safe when off and a valve that is safe when open.
var outputs = []board.LineConfig{
	{Name: "heater", Output: true},
	{Name: "valve", Output: true, Initial: true},
}

// gateway drives every output to the unsafe level, says so, and ends when its input does.
func gateway(dir string, log *slog.Logger) error {
	if err := guard.TakeOver(dir); err != nil {
		return err
	}
	var lines []board.Line
	for _, c := range outputs {
		l, err := fileBoard(dir).Line(c)
		if err != nil {
			return err
		}
		lines = append(lines, l)
	}
	g, err := guard.Start(os.Args[0], dir, outputs, log)
	if err != nil {
		return err
	}
	for i, l := range lines {
		if err := l.Set(!outputs[i].Initial); err != nil {
			return err
		}
	}
	fmt.Println("up")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	for i, l := range lines {
		if err := errors.Join(l.Set(outputs[i].Initial), l.Close()); err != nil {
			return err
		}
	}
	return g.Release()
}

type running struct {
	*exec.Cmd
	stdin io.Closer
}

func startGateway(t *testing.T, dir string) running {
	t.Helper()
	c := exec.Command(os.Args[0])
	// Without GORACE a program with the race detector takes a second to end.
	c.Env = append(os.Environ(), "GUARD_TEST_GATEWAY="+dir, "GORACE=atexit_sleep_ms=0")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A pipe that nobody reads: whoever insists on logging dies of SIGPIPE.
	unread, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	c.Stderr = stderr
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
	word := make([]byte, 3)
	if _, err := io.ReadFull(stdout, word); err != nil {
		text, _ := io.ReadAll(unread)
		t.Fatalf("the gateway did not start: %v\n%s", stop(running{c, stdin}, dir), text)
	}
	if err := unread.Close(); err != nil {
		t.Fatal(err)
	}
	return running{c, stdin}
}

// stop ends a gateway as its user would and returns what it complains about.
func stop(g running, dir string) error {
	g.stdin.Close()
	err := g.Wait()
	if text, _ := os.ReadFile(filepath.Join(dir, "fault")); text != nil {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// until polls, because the other processes have no other way to tell.
func until(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// safe tells whether every output is at its safe level, and not by the hand of process pid.
func safe(dir string, pid int) bool {
	for _, c := range outputs {
		text, err := os.ReadFile(filepath.Join(dir, c.Name))
		if err != nil || !strings.HasPrefix(string(text), fmt.Sprint(c.Initial)) ||
			strings.HasSuffix(string(text), fmt.Sprintf(" %d\n", pid)) {
			return false
		}
	}
	return true
}

// watcher returns the process id of the guard on dir, 0 if there is none.
func watcher(t *testing.T, dir string) int {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "guard.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &l); err != nil {
		t.Fatal(err)
	}
	if l.Type == unix.F_UNLCK {
		return 0
	}
	return int(l.Pid)
}

func TestOutputsAreSafeHoweverTheGatewayDies(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(p int) error
	}{
		{"kill -9", func(p int) error { return unix.Kill(p, unix.SIGKILL) }},
		{"Ctrl-C to all", func(p int) error { return unix.Kill(-p, unix.SIGINT) }},
		{"crash", func(p int) error { return unix.Kill(p, unix.SIGSEGV) }},
		{"service stopped, all asked to end, gateway killed", func(p int) error {
			return unix.Kill(p, unix.SIGKILL)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			g := startGateway(t, dir)
			first := watcher(t, dir)
			if first == 0 || safe(dir, 0) {
				t.Fatalf("guard %d watches, outputs safe %t: want unsafe and watched", first, safe(dir, 0))
			}
			if strings.HasPrefix(tt.name, "service") {
				// A guard of a gateway that lives is not impressed.
				if err := unix.Kill(first, unix.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			if err := tt.end(g.Process.Pid); err != nil {
				t.Fatal(err)
			}
			g.Wait()
			until(t, time.Second, "outputs safe", func() bool { return safe(dir, g.Process.Pid) })
			if _, err := fileBoard(dir).Line(outputs[0]); !errors.Is(err, board.ErrBusy) {
				t.Fatalf("nobody holds the safe level: %v", err)
			}

			next := startGateway(t, dir)
			if second := watcher(t, dir); second == 0 || second == first {
				t.Errorf("the second gateway's guard is %d, the first's was %d", second, first)
			}
			if err := stop(next, dir); err != nil {
				t.Errorf("the second gateway: %v", err)
			}
			if p := watcher(t, dir); p != 0 {
				t.Errorf("guard %d outlives a clean end", p)
			}
		})
	}
}

func TestDeadGuardIsReplaced(t *testing.T) {
	dir := t.TempDir()
	g := startGateway(t, dir)
	first := watcher(t, dir)
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, 5*time.Second, "another guard", func() bool {
		p := watcher(t, dir)
		return p != 0 && p != first
	})
	if safe(dir, 0) {
		t.Error("the guard has touched the outputs of a gateway that lives")
	}
	if err := stop(g, dir); err != nil {
		t.Error(err)
	}
}

func TestSecondGatewayCannotTakeOverFromALivingOne(t *testing.T) {
	dir := t.TempDir()
	g := startGateway(t, dir)
	err := guard.TakeOver(dir)
	if err == nil || !strings.Contains(err.Error(), "another gateway") {
		t.Errorf("TakeOver: %v, want a hint at the other gateway", err)
	}
	if watcher(t, dir) == 0 || safe(dir, 0) {
		t.Error("the other gateway has lost its guard or its outputs")
	}
	if err := stop(g, dir); err != nil {
		t.Error(err)
	}
}

func TestTakeOverWithoutAGuard(t *testing.T) {
	dir := t.TempDir()
	if err := guard.TakeOver(dir); err != nil {
		t.Errorf("a new data folder: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "guard.lock"), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := guard.TakeOver(dir); err != nil {
		t.Errorf("a lock file that nobody holds: %v", err)
	}
}

func TestStartRefuses(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	if _, err := guard.Start(os.Args[0], t.TempDir(), []board.LineConfig{{Name: "door"}}, log); err == nil {
		t.Error("an input is guarded")
	}
	if _, err := guard.Start("/bin/false", t.TempDir(), outputs, log); err == nil {
		t.Error("a guard that ends at once is taken for one that watches")
	}
	if _, err := guard.Start(os.Args[0], filepath.Join(t.TempDir(), "missing"), outputs, log); err == nil {
		t.Error("a guard without a data folder is taken for one that watches")
	}
}

// A line that is busy at first is tried again; the others do not wait for it.
func TestBusyLineIsTakenLater(t *testing.T) {
	dir := t.TempDir()
	g := startGateway(t, dir)
	// The kernel would not allow this; flock does: the file is another one now.
	if err := os.Remove(filepath.Join(dir, "heater")); err != nil {
		t.Fatal(err)
	}
	other, err := fileBoard(dir).Line(board.LineConfig{Name: "heater", Initial: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	g.Wait()
	until(t, time.Second, "the valve is open", func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "valve"))
		return err == nil && strings.HasPrefix(string(text), "true ")
	})
	if safe(dir, g.Process.Pid) {
		t.Fatal("the heater has been taken from its owner")
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, time.Second, "the heater is off", func() bool { return safe(dir, g.Process.Pid) })
	if err := guard.TakeOver(dir); err != nil {
		t.Error(err)
	}
}
