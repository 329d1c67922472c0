package linux

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"gateway/board"
)

// A fakeRequest is a line without a kernel: it keeps edgeQueue edges and forgets the oldest,
// as the kernel does.
type fakeRequest struct {
	mu     sync.Mutex
	high   bool
	queue  []bool
	fault  error
	wake   chan struct{} // size 1: something to look at
	halted bool
	closed bool
}

func newFake(high bool) *fakeRequest {
	return &fakeRequest{high: high, wake: make(chan struct{}, 1)}
}

func (f *fakeRequest) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// drive sets the level from outside, which is an edge.
func (f *fakeRequest) drive(high bool) {
	f.change(func() {
		if f.high == high {
			return
		}
		f.high = high
		f.queue = append(f.queue, high)
		if len(f.queue) > edgeQueue {
			f.queue = f.queue[1:]
		}
	})
}

func (f *fakeRequest) get() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.high, f.fault
}

func (f *fakeRequest) set(high bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.high = high
	return f.fault
}

func (f *fakeRequest) edge(limit time.Duration) (bool, error) {
	expired := time.After(limit)
	for {
		f.mu.Lock()
		switch {
		case f.fault != nil:
			f.mu.Unlock()
			return false, f.fault
		case f.halted:
			f.halted = false
			f.mu.Unlock()
			return false, os.ErrDeadlineExceeded
		case len(f.queue) > 0:
			high := f.queue[0]
			f.queue = f.queue[1:]
			f.mu.Unlock()
			return high, nil
		}
		f.mu.Unlock()
		select {
		case <-f.wake:
		case <-expired:
			return false, os.ErrDeadlineExceeded
		}
	}
}

func (f *fakeRequest) interrupt() error { f.change(func() { f.halted = true }); return nil }
func (f *fakeRequest) close() error     { f.closed = true; return nil }

func openFake(t *testing.T, c board.LineConfig, f *fakeRequest) *line {
	t.Helper()
	c.Name = "FAKE"
	l, err := newLine(c, f)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func wantLevel(t *testing.T, l board.Line, want bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if got, err := l.Wait(ctx); err != nil || got != want {
		t.Fatalf("Wait = %t, %v, want %t", got, err, want)
	}
}

func TestDebounceAcceptsWhatIsSteady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(false)
		l := openFake(t, board.LineConfig{Debounce: 20 * time.Millisecond}, f)
		defer l.Close()
		var last time.Time
		go func() { // 20 ms of bouncing, ending high
			for i := range 21 {
				last = time.Now()
				f.drive(i%2 == 0)
				time.Sleep(time.Millisecond)
			}
		}()
		wantLevel(t, l, true)
		if steady := time.Since(last); steady < 20*time.Millisecond || steady > 21*time.Millisecond {
			t.Errorf("the level counted after %v of quiet, want 20ms", steady)
		}
		// A spike shorter than the debounce is no change.
		f.drive(false)
		time.Sleep(19 * time.Millisecond)
		f.drive(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if level, err := l.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait = %t, %v after a spike, want nothing for an hour", level, err)
		}
	})
}

func TestEveryEdgeIsToldWithoutDebounce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(false)
		l := openFake(t, board.LineConfig{ActiveLow: true}, f)
		defer l.Close()
		for i := range 6 {
			f.drive(i%2 == 0)
		}
		synctest.Wait()
		for i := range 6 {
			wantLevel(t, l, i%2 != 0) // active low
		}
	})
}

func TestLevelIsRightAfterTooManyEdges(t *testing.T) {
	for _, edges := range []int{39, 40} { // ends high, ends low
		synctest.Test(t, func(t *testing.T) {
			f := newFake(false)
			l := openFake(t, board.LineConfig{}, f)
			defer l.Close()
			for i := range edges {
				f.drive(i%2 == 0)
				synctest.Wait() // watch keeps up, Wait does not: the queue overflows
			}
			last, told := false, 0
			for {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				level, err := l.Wait(ctx)
				cancel()
				if err != nil {
					break
				}
				if level == last {
					t.Fatalf("told %t twice", level)
				}
				last = level
				told++
			}
			if want := edges%2 != 0; last != want || told < edgeQueue {
				t.Errorf("after %d edges: last %t of %d, want %t of at least %d", edges, last, told, want, edgeQueue)
			}
		})
	}
}

func TestWaitEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(f *fakeRequest, l *line, cancel func())
		want error
	}{
		{"context", func(_ *fakeRequest, _ *line, cancel func()) { cancel() }, context.Canceled},
		{"close", func(_ *fakeRequest, l *line, _ func()) { l.Close() }, os.ErrClosed},
		{"chip gone", func(f *fakeRequest, _ *line, _ func()) {
			f.change(func() { f.fault = unix.ENODEV })
		}, board.ErrGone},
		{"chip gone, errno lost", func(f *fakeRequest, _ *line, _ func()) {
			f.change(func() { f.fault = errors.New(unix.ENODEV.Error()) })
		}, board.ErrGone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(false)
				l := openFake(t, board.LineConfig{}, f)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				failed := make(chan error, 1)
				go func() {
					_, err := l.Wait(ctx)
					failed <- err
				}()
				synctest.Wait()
				tt.end(f, l, cancel)
				if err := <-failed; !errors.Is(err, tt.want) {
					t.Errorf("Wait: %v, want %v", err, tt.want)
				}
				if err := l.Close(); err != nil || !f.closed {
					t.Errorf("Close = %v, closed %t", err, f.closed)
				}
				if _, err := l.Get(); err == nil {
					t.Error("a closed line can be read")
				}
			})
		})
	}
}

func TestLineRefusesTheOtherDirection(t *testing.T) {
	in := openFake(t, board.LineConfig{}, newFake(false))
	defer in.Close()
	if err := in.Set(true); err == nil {
		t.Error("an input can be set")
	}
	out := openFake(t, board.LineConfig{Output: true}, newFake(false))
	defer out.Close()
	if _, err := out.Wait(t.Context()); err == nil {
		t.Error("an output can be waited for")
	}
}

func TestSimilarNames(t *testing.T) {
	names := []string{"GPIO2", "GPIO3", "GPIO17", "GPIO27", "ID_SDA", "STATUS_LED", "A", "B", "C", "D"}
	if got := similar("17", names); got[0] != "GPIO17" {
		t.Errorf("17: %q, want GPIO17 first", got)
	}
	if got := similar("status_led", names); got[0] != "STATUS_LED" {
		t.Errorf("status_led: %q, want STATUS_LED first", got)
	}
	got := similar("GPIO99", names)
	if len(got) != suggestions+1 || got[suggestions] != "2 more" {
		t.Errorf("GPIO99: %q, want %d names and how many more there are", got, suggestions)
	}
}

func TestStandardInputStays(t *testing.T) {
	// periph.io, when it meets a chip twice: descriptor 0 is closed under our feet.
	saved, err := unix.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { unix.Dup3(saved, 0, 0); unix.Close(saved) }()
	if err := keepStdin(func() error { return unix.Close(0) }); err != nil {
		t.Fatal(err)
	}
	var was, is unix.Stat_t
	if err := errors.Join(unix.Fstat(saved, &was), unix.Fstat(0, &is)); err != nil {
		t.Fatal(err)
	}
	if was.Ino != is.Ino || was.Dev != is.Dev {
		t.Error("descriptor 0 is another file now")
	}
	// And when it was closed before, nothing else may become it.
	unix.Close(0)
	if err := keepStdin(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fstat(0, &is); err != nil {
		t.Errorf("descriptor 0 is free to be taken: %v", err)
	}
}
