package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warthog618/go-gpiosim"
	"golang.org/x/sys/unix"

	"gateway/board"
	"gateway/internal/vm"
)

// ways are the two ways to take a line. Both must pass the same tests.
var ways = []struct {
	name string
	take func(place, board.LineConfig) (request, error)
}{
	{"periph LineSet", requestLineSet},
	{"gpiocdev", requestCdev},
}

// eachWay runs a test with lines taken either way.
func eachWay(t *testing.T, test func(t *testing.T, open func(board.LineConfig) *line)) {
	vm.Need(t)
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			test(t, func(c board.LineConfig) *line {
				t.Helper()
				p, err := find(c.Name)
				if err != nil {
					t.Fatal(err)
				}
				r, err := way.take(p, c)
				if err != nil {
					t.Fatal(err)
				}
				l, err := newLine(c, r)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
				return l
			})
		})
	}
}

func TestSimInput(t *testing.T) {
	in := offsetOf("IN")
	eachWay(t, func(t *testing.T, open func(board.LineConfig) *line) {
		for _, c := range []board.LineConfig{
			{},
			{ActiveLow: true},
			{Debounce: 5 * time.Millisecond},
			{Debounce: 5 * time.Millisecond, ActiveLow: true},
		} {
			pull(t, in, false)
			c.Name = "IN"
			l := open(c)
			if on, err := l.Get(); err != nil || on != c.ActiveLow {
				t.Errorf("%+v: at start %t, %v", c, on, err)
			}
			for _, high := range []bool{true, false, true} {
				pull(t, in, high)
				wantLevel(t, l, high != c.ActiveLow)
				if on, err := l.Get(); err != nil || on != (high != c.ActiveLow) {
					t.Errorf("%+v: Get after an edge: %t, %v", c, on, err)
				}
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestSimPull(t *testing.T) {
	eachWay(t, func(t *testing.T, open func(board.LineConfig) *line) {
		for _, p := range []board.Pull{board.PullUp, board.PullDown, board.PullUp} {
			l := open(board.LineConfig{Name: "IN", Pull: p})
			if high, err := l.Get(); err != nil || high != (p == board.PullUp) {
				t.Errorf("pull %d: %t, %v", p, high, err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestSimDebounce(t *testing.T) {
	button := offsetOf("BUTTON")
	eachWay(t, func(t *testing.T, open func(board.LineConfig) *line) {
		pull(t, button, false)
		l := open(board.LineConfig{Name: "BUTTON", Debounce: 50 * time.Millisecond})
		for range 10 { // 20 ms of bouncing, ending high
			pull(t, button, true)
			time.Sleep(time.Millisecond)
			pull(t, button, false)
			time.Sleep(time.Millisecond)
		}
		pull(t, button, true)
		wantLevel(t, l, true)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if level, err := l.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second event from one press: %t, %v", level, err)
		}
	})
}

func TestSimFortyFastEdges(t *testing.T) {
	in := offsetOf("IN")
	for _, edges := range []int{39, 40} {
		eachWay(t, func(t *testing.T, open func(board.LineConfig) *line) {
			pull(t, in, false)
			l := open(board.LineConfig{Name: "IN"})
			for i := range edges {
				pull(t, in, i%2 == 0)
			}
			last := false
			for {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				level, err := l.Wait(ctx)
				cancel()
				if errors.Is(err, context.DeadlineExceeded) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				last = level
			}
			if want := edges%2 != 0; last != want {
				t.Errorf("after %d edges: %t, want %t", edges, last, want)
			}
		})
	}
}

// An edge from before the line was taken, or from between two waits, is neither lost nor told
// twice.
func TestSimQueuedEdges(t *testing.T) {
	in := offsetOf("IN")
	eachWay(t, func(t *testing.T, open func(board.LineConfig) *line) {
		pull(t, in, false)
		pull(t, in, true)
		l := open(board.LineConfig{Name: "IN"})
		pull(t, in, false)
		wantLevel(t, l, false)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if level, err := l.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an edge too many: %t, %v", level, err)
		}
	})
}

func TestSimOutput(t *testing.T) {
	out := offsetOf("OUT")
	eachWay(t, func(t *testing.T, open func(board.LineConfig) *line) {
		pull(t, out, true) // the opposite of what is driven
		for _, c := range []board.LineConfig{
			{Name: "OUT", Output: true},
			{Name: "OUT", Output: true, Initial: true, ActiveLow: true},
		} {
			var l *line
			wantTrace(t, "taking the line", []string{"set 0", "out"}, func() { l = open(c) })
			if outside(t, out) {
				t.Errorf("%+v: high at start", c)
			}
			for _, on := range []bool{!c.Initial, c.Initial, !c.Initial} {
				if err := l.Set(on); err != nil {
					t.Fatal(err)
				}
				if high := outside(t, out); high != (on != c.ActiveLow) {
					t.Errorf("%+v: set %t: the line is at %t", c, on, high)
				}
				want := []string{"get 0"}
				if on != c.ActiveLow {
					want = []string{"get 1"}
				}
				wantTrace(t, "reading back", want, func() {
					if got, err := l.Get(); err != nil || got != on {
						t.Errorf("%+v: set %t, read back %t, %v", c, on, got, err)
					}
				})
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// What only go-gpiocdev can do is done by it, the rest by periph.io.
func TestSimChoice(t *testing.T) {
	vm.Need(t)
	chip := chips.main.Chips[0].ChipName()
	for _, tt := range []struct {
		config board.LineConfig
		periph bool
	}{
		{board.LineConfig{Name: "IN"}, true},
		{board.LineConfig{Name: "OUT", Output: true}, true},
		{board.LineConfig{Name: "RELAY", Output: true, Initial: true, ActiveLow: true}, true},
		{board.LineConfig{Name: "RELAY", Output: true, Initial: true}, false},
		{board.LineConfig{Name: "RELAY", Output: true, ActiveLow: true}, false},
		{board.LineConfig{Name: fmt.Sprintf("%s:%d", chip, unnamed)}, false},
		{board.LineConfig{Name: fmt.Sprintf("%s:%d", chip, offsetOf("IN"))}, true},
		{board.LineConfig{Name: fmt.Sprintf("%s:9", chip)}, false}, // the second PAIR: periph.io finds the first
	} {
		l, err := chips.board.Line(tt.config)
		if err != nil {
			t.Errorf("%+v: %v", tt.config, err)
			continue
		}
		if _, periph := l.(*line).request.(*lineSet); periph != tt.periph {
			t.Errorf("%+v: taken through periph.io: %t, want %t", tt.config, periph, tt.periph)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A relay that is safe at the high level never sees the low one.
func TestSimInitialLevelComesBeforeDirection(t *testing.T) {
	vm.Need(t)
	pull(t, offsetOf("RELAY"), true)
	for _, c := range []board.LineConfig{
		{Name: "RELAY", Output: true, Initial: true},
		{Name: "RELAY", Output: true, ActiveLow: true},
	} {
		var l board.Line
		wantTrace(t, "taking the line", []string{"set 1", "out"}, func() {
			var err error
			if l, err = chips.board.Line(c); err != nil {
				t.Fatal(err)
			}
		})
		if !outside(t, offsetOf("RELAY")) {
			t.Errorf("%+v: low at start", c)
		}
		if on, err := l.Get(); err != nil || on != c.Initial {
			t.Errorf("%+v: read back %t, %v", c, on, err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestSimUnnamedLine(t *testing.T) {
	vm.Need(t)
	pull(t, unnamed, false)
	l, err := chips.board.Line(board.LineConfig{Name: fmt.Sprintf("%s:%d", chips.main.Chips[0].ChipName(), unnamed)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pull(t, unnamed, true)
	wantLevel(t, l, true)
}

func TestSimBusyLineNamesItsOwner(t *testing.T) {
	vm.Need(t)
	_, end := start(t, "LINUX_TEST_HOLD=BUSY")
	for _, c := range []board.LineConfig{{Name: "BUSY"}, {Name: "BUSY", Output: true}, {Name: "BUSY", Output: true, Initial: true}} {
		_, err := chips.board.Line(c)
		if !errors.Is(err, board.ErrBusy) {
			t.Fatalf("%+v: %v, want ErrBusy", c, err)
		}
		for _, want := range []string{"line BUSY is in use by \"linux.test@", "stop it or choose another line"} {
			// periph.io's name for the owner is its program's
			if !strings.Contains(strings.ReplaceAll(err.Error(), "kernel.test", "linux.test"), want) {
				t.Errorf("%v: want %s", err, want)
			}
		}
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	l, err := chips.board.Line(board.LineConfig{Name: "BUSY", Output: true})
	if err != nil {
		t.Fatalf("after its owner has gone: %v", err)
	}
	l.Close()
}

func TestSimUnknownLines(t *testing.T) {
	vm.Need(t)
	chip := chips.main.Chips[0].ChipName()
	for _, tt := range []struct{ name, says string }{
		{"HEATR", "there is HEATER, "},
		{"PAIR", "write " + chip + ":8 or " + chip + ":9"},
		{"TWICE", "write " + chip + ":7 or "},
		{chip + ":99", "has the lines 0 to 23"},
		{chip + ":-1", "has the lines 0 to 23"},
		{"gpiochip77:0", "there is no chip gpiochip77"},
		{"", "no line of that name"},
	} {
		if _, err := chips.board.Line(board.LineConfig{Name: tt.name}); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q: %v, want %q", tt.name, err, tt.says)
		}
	}
}

// A chip is pulled out while somebody waits, and comes back.
func TestSimUnpluggedChip(t *testing.T) {
	eachWay(t, func(t *testing.T, open func(board.LineConfig) *line) {
		l := open(board.LineConfig{Name: "PLUG"})
		failed := make(chan error, 1)
		go func() {
			_, err := l.Wait(t.Context())
			failed <- err
		}()
		chips.plug.Close()
		select {
		case err := <-failed:
			if !errors.Is(err, board.ErrGone) {
				t.Errorf("Wait: %v, want ErrGone", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("Wait has not noticed that the chip is gone")
		}
		before := cpu(t)
		time.Sleep(200 * time.Millisecond)
		if used := cpu(t) - before; used > 50*time.Millisecond {
			t.Errorf("%v of processor time in 200ms for a chip that has gone", used)
		}
		if _, err := l.Get(); !errors.Is(err, board.ErrGone) {
			t.Errorf("Get: %v, want ErrGone", err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := chips.board.Line(board.LineConfig{Name: "PLUG"}); !errors.Is(err, board.ErrGone) {
			t.Errorf("a line of a chip that has gone: %v, want ErrGone", err)
		}

		var err error
		chips.plug, err = gpiosim.NewSim(gpiosim.WithBank(gpiosim.NewBank("expander", 4,
			gpiosim.WithNamedLine(0, "PLUG"), gpiosim.WithNamedLine(3, "TWICE"))))
		if err != nil {
			t.Fatal(err)
		}
		returned, err := chips.board.Line(board.LineConfig{Name: "PLUG"})
		if err != nil {
			t.Fatal(err)
		}
		defer returned.Close()
		if err := chips.plug.Chips[0].Pullup(0); err != nil {
			t.Fatal(err)
		}
		wantLevel(t, returned, true)
	})
}

// cpu returns the processor time of this process so far.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestSimOutputOfUnpluggedChip(t *testing.T) {
	vm.Need(t)
	sim, err := gpiosim.NewSimpleton(2)
	if err != nil {
		t.Fatal(err)
	}
	l, err := chips.board.Line(board.LineConfig{Name: sim.ChipName() + ":1", Output: true})
	if err != nil {
		t.Fatal(err)
	}
	sim.Close()
	if err := l.Set(true); !errors.Is(err, board.ErrGone) {
		t.Errorf("Set: %v, want ErrGone", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestSimStandardInputStays(t *testing.T) {
	vm.Need(t)
	// setUp has given a chip a second name before New.
	if _, err := os.Readlink("/dev/gpiochip9"); err != nil {
		t.Fatal(err)
	}
	var s unix.Stat_t
	if err := unix.Fstat(0, &s); err != nil {
		t.Errorf("descriptor 0: %v", err)
	}
}

// The kernel lets go of the lines of a dead process, and the pulls pull the other way.
func TestSimGuardHoldsOutputs(t *testing.T) {
	vm.Need(t)
	heater, valve := offsetOf("HEATER"), offsetOf("VALVE")
	dir := t.TempDir()
	pull(t, heater, true)
	pull(t, valve, false)
	g, _ := start(t, "LINUX_TEST_GATEWAY="+dir)
	if !outside(t, heater) || outside(t, valve) {
		t.Fatal("the gateway does not drive its outputs")
	}
	killed := time.Now()
	if err := g.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	g.Wait()
	until(t, time.Second, "outputs at their safe levels, against their pulls, and held", func() bool {
		p, err := find("VALVE")
		return err == nil && !outside(t, heater) && outside(t, valve) && consumerOf(p) == consumer
	})
	t.Logf("safe %v after the kill", time.Since(killed).Round(time.Millisecond))

	_, end := start(t, "LINUX_TEST_GATEWAY="+dir)
	if !outside(t, heater) || outside(t, valve) {
		t.Error("the second gateway does not drive its outputs")
	}
	if err := end(); err != nil {
		t.Errorf("the second gateway: %v", err)
	}
	for _, name := range []string{"HEATER", "VALVE"} {
		p, err := find(name)
		if err != nil {
			t.Fatal(err)
		}
		if c := consumerOf(p); c != "" {
			t.Errorf("%q still has %s after a clean end", c, name)
		}
	}
}
