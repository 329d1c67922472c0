package e2e

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A process is one program under test and what it has printed.
type process struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	out    *output
	exited chan struct{} // closed when it has ended
}

// An output collects what processes print, over their restarts.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

// lines returns the lines that contain all of the words, case aside.
func (o *output) lines(words ...string) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var found []string
	for line := range strings.Lines(o.buf.String()) {
		lower, all := strings.ToLower(line), true
		for _, w := range words {
			all = all && strings.Contains(lower, strings.ToLower(w))
		}
		if all {
			found = append(found, strings.TrimSuffix(line, "\n"))
		}
	}
	return found
}

// launch starts a program that ends with the test at the latest. If the test fails, the end of
// what the program printed is shown.
func launch(t *testing.T, name string, out *output, path string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, out: out, cmd: exec.Command(path, args...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // when the tests are killed
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // ExitCode tells
		close(p.exited)
	}()
	t.Cleanup(p.kill)
	return p
}

// kill ends the process as a power cut would, and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may be gone
	<-p.exited
}

// interrupt ends the process as Ctrl-C does, and returns how long it took and its exit code.
func (p *process) interrupt(limit time.Duration) (time.Duration, int) {
	p.t.Helper()
	start := time.Now()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		p.t.Errorf("%s: %v", p.name, err)
	}
	select {
	case <-p.exited:
	case <-time.After(limit):
		p.t.Errorf("%s is still there %v after SIGINT", p.name, limit)
		p.kill()
	}
	return time.Since(start), p.cmd.ProcessState.ExitCode()
}

// showOnFailure prints the end of an output if the test has failed.
func showOnFailure(t *testing.T, name string, out *output) {
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		all := out.lines()
		t.Logf("the last lines of %s:\n%s", name, strings.Join(all[max(0, len(all)-80):], "\n"))
	})
}

// eventually polls until the condition holds, and ends the test if it does not in time.
func eventually(t *testing.T, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	if !within(t, limit, condition) {
		t.Fatalf("not within %v: %s", limit, what)
	}
}

// within polls until the condition holds, and reports whether it did in time.
func within(t *testing.T, limit time.Duration, condition func() bool) bool {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return condition()
		}
	}
	return true
}

// addresses are those that freeAddress has returned. The kernel may offer one again.
var addresses sync.Map

// freeAddress returns an address on the loopback that nobody listens on, another one each time.
func freeAddress(t *testing.T) string {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		_ = l.Close()
		if _, given := addresses.LoadOrStore(address, true); !given {
			return address
		}
	}
}
