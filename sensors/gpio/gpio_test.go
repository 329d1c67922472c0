package gpio

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gateway/board"
	"gateway/sensors"
)

// A fakeBoard has one line. fault, while it is set, is what Line answers.
type fakeBoard struct {
	mu     sync.Mutex
	fault  error
	line   *fakeLine
	asked  int // calls of Line
	events []string
}

func (b *fakeBoard) Port(board.PortConfig) (board.Port, error) { return nil, errors.ErrUnsupported }

func (b *fakeBoard) Line(c board.LineConfig) (board.Line, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	if b.fault != nil {
		return nil, b.fault
	}
	b.line = &fakeLine{board: b, on: c.Initial, edges: make(chan bool, 1), gone: make(chan struct{})}
	b.note("take", c.Initial)
	return b.line, nil
}

// note is called with the lock held.
func (b *fakeBoard) note(what string, on bool) {
	if on {
		what += " on"
	} else {
		what += " off"
	}
	b.events = append(b.events, what)
}

// unplug makes the line vanish, and the board answer with fault until it is plugged in again.
func (b *fakeBoard) unplug(fault error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = fault
	if b.line != nil {
		close(b.line.gone)
	}
}

func (b *fakeBoard) plug() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault, b.line = nil, nil
}

// edge sets the level from outside; Wait tells it.
func (b *fakeBoard) edge(on bool) {
	b.mu.Lock()
	l := b.line
	l.on = on
	b.mu.Unlock()
	l.edges <- on
}

type fakeLine struct {
	board *fakeBoard
	on    bool
	edges chan bool // 1: a test waits until it is taken
	gone  chan struct{}
}

func (l *fakeLine) fault() error {
	select {
	case <-l.gone:
		return board.ErrGone
	default:
		return nil
	}
}

func (l *fakeLine) Get() (bool, error) {
	l.board.mu.Lock()
	defer l.board.mu.Unlock()
	return l.on, l.fault()
}

func (l *fakeLine) Set(on bool) error {
	l.board.mu.Lock()
	defer l.board.mu.Unlock()
	if err := l.fault(); err != nil {
		return err
	}
	l.on = on
	l.board.note("set", on)
	return nil
}

func (l *fakeLine) Wait(ctx context.Context) (bool, error) {
	select {
	case on := <-l.edges:
		return on, nil
	case <-l.gone:
		return false, board.ErrGone
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func (l *fakeLine) Close() error {
	l.board.mu.Lock()
	defer l.board.mu.Unlock()
	l.board.events = append(l.board.events, "close")
	return nil
}

// run starts an input and returns a function that returns the readings so far.
func run(t *testing.T, in *Input) (readings func() []sensors.Reading) {
	t.Helper()
	var mu sync.Mutex
	var all []sensors.Reading
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- in.Run(ctx, func(r sensors.Reading) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, r)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return func() []sensors.Reading {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// values returns the readings' values; the reason stands for a bad one.
func values(readings []sensors.Reading) []any {
	var vs []any
	for _, r := range readings {
		if r.Quality == sensors.Bad {
			vs = append(vs, r.Err.Error())
			continue
		}
		vs = append(vs, r.Value)
	}
	return vs
}

func want(t *testing.T, got []sensors.Reading, vs ...any) {
	t.Helper()
	if !slices.Equal(values(got), vs) {
		t.Errorf("readings %v, want %v", values(got), vs)
	}
}

func TestInputTellsStartEdgesAndHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBoard{}
		start := time.Now()
		readings := run(t, &Input{Point: "door", Board: b, Heartbeat: time.Minute})
		want(t, readings(), false)
		time.Sleep(30 * time.Second)
		b.edge(true)
		want(t, readings(), false, true)
		time.Sleep(59 * time.Second)
		want(t, readings(), false, true)
		time.Sleep(2 * time.Second)
		want(t, readings(), false, true, true)

		for i, after := range []time.Duration{0, 30 * time.Second, 90 * time.Second} {
			if r := readings()[i]; r.Point != "door" || r.Quality != sensors.Good || !r.At.Equal(start.Add(after)) {
				t.Errorf("reading %d: %+v, want door, good, at %v", i, r, after)
			}
		}
	})
}

func TestInputWithoutHeartbeatIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		readings := run(t, &Input{Board: &fakeBoard{}})
		time.Sleep(24 * time.Hour)
		want(t, readings(), false)
	})
}

func TestInputTellsOnceThatItsLineIsGoneAndReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBoard{}
		readings := run(t, &Input{Board: b, Heartbeat: time.Minute})
		want(t, readings(), false)
		asked := b.asked
		b.unplug(errors.New("no such chip"))
		time.Sleep(10 * time.Minute)
		want(t, readings(), false, board.ErrGone.Error())
		if !errors.Is(readings()[1].Err, board.ErrGone) {
			t.Errorf("the reason is %v, want ErrGone", readings()[1].Err)
		}
		if tries := b.asked - asked; tries < 100 || tries > 130 {
			t.Errorf("%d attempts in 10 minutes, want one every 5 s", tries)
		}
		b.plug()
		time.Sleep(retryMax)
		want(t, readings(), false, board.ErrGone.Error(), false)
		b.unplug(board.ErrBusy)
		want(t, readings(), false, board.ErrGone.Error(), false, board.ErrGone.Error())
	})
}

func TestInputThatIsBusyAtStartComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBoard{fault: board.ErrBusy}
		readings := run(t, &Input{Board: b})
		want(t, readings(), board.ErrBusy.Error())
		time.Sleep(time.Minute)
		b.plug()
		time.Sleep(retryMax)
		want(t, readings(), board.ErrBusy.Error(), false)
	})
}

func TestOutputIsSafeFirst(t *testing.T) {
	for _, safe := range []bool{false, true} {
		b := &fakeBoard{}
		o := NewOutput(b, board.LineConfig{Name: "R", Initial: safe})
		if v, err := o.Read(t.Context()); err != nil || v != safe {
			t.Errorf("Read = %v, %v, want %t", v, err, safe)
		}
		if err := o.Write(t.Context(), !safe); err != nil {
			t.Error(err)
		}
		if v, err := o.Read(t.Context()); err != nil || v != !safe {
			t.Errorf("Read = %v, %v, want %t", v, err, !safe)
		}
		if err := o.MakeSafe(t.Context()); err != nil {
			t.Error(err)
		}
		if v, err := o.Read(t.Context()); err != nil || v != safe {
			t.Errorf("Read = %v, %v, want %t", v, err, safe)
		}
		if err := o.Write(t.Context(), !safe); err != nil {
			t.Error(err)
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
		wants := []string{"take off", "set on", "set off", "set on", "set off", "close"}
		if safe {
			wants = []string{"take on", "set off", "set on", "set off", "set on", "close"}
		}
		if !slices.Equal(b.events, wants) {
			t.Errorf("safe %t: %q, want %q", safe, b.events, wants)
		}
		if err := o.Write(t.Context(), true); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Write after Close: %v", err)
		}
		if b.asked != 1 {
			t.Error("a closed output has taken its line again")
		}
	}
}

func TestOutputTakesOnlyOnAndOff(t *testing.T) {
	b := &fakeBoard{}
	o := NewOutput(b, board.LineConfig{Name: "R"})
	for _, v := range []sensors.Value{nil, 1.0, "on"} {
		if err := o.Write(t.Context(), v); err == nil || !strings.Contains(err.Error(), "line R") {
			t.Errorf("Write(%v): %v", v, err)
		}
	}
	if !slices.Equal(b.events, []string{"take off"}) {
		t.Errorf("%q: the line was touched", b.events)
	}
}

func TestOutputThatIsBusyIsTakenWhenItIsFree(t *testing.T) {
	b := &fakeBoard{fault: board.ErrBusy}
	o := NewOutput(b, board.LineConfig{Name: "R", Initial: true})
	if err := o.Write(t.Context(), false); !errors.Is(err, board.ErrBusy) {
		t.Errorf("Write: %v, want ErrBusy", err)
	}
	if _, err := o.Read(t.Context()); !errors.Is(err, board.ErrBusy) {
		t.Errorf("Read: %v, want ErrBusy", err)
	}
	if err := o.MakeSafe(t.Context()); !errors.Is(err, board.ErrBusy) {
		t.Errorf("MakeSafe: %v, want ErrBusy", err)
	}
	b.plug()
	if err := o.MakeSafe(t.Context()); err != nil {
		t.Error(err)
	}
	if !slices.Equal(b.events, []string{"take on", "set on"}) {
		t.Errorf("%q, want the line taken at its safe state", b.events)
	}
}

func TestOutputReturnsAtItsSafeState(t *testing.T) {
	b := &fakeBoard{}
	o := NewOutput(b, board.LineConfig{Name: "R"})
	if err := o.Write(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	b.unplug(board.ErrGone)
	if _, err := o.Read(t.Context()); !errors.Is(err, board.ErrGone) {
		t.Errorf("Read: %v, want ErrGone", err)
	}
	b.plug()
	if v, err := o.Read(t.Context()); err != nil || v != false {
		t.Errorf("Read after its return: %v, %v, want off", v, err)
	}
	if !slices.Equal(b.events, []string{"take off", "set on", "close", "take off"}) {
		t.Errorf("%q", b.events)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}
