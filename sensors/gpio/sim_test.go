package gpio_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/warthog618/go-gpiosim"

	"gateway/board"
	"gateway/board/linux"
	"gateway/internal/vm"
	"gateway/sensors"
	"gateway/sensors/gpio"
)

// TestInKernel runs the tests below whose names begin with TestSim in a kernel that has GPIO
// chips.
func TestInKernel(t *testing.T) { vm.Run(t, "^TestSim[A-Z]") }

func plug(t *testing.T) *gpiosim.Sim {
	t.Helper()
	sim, err := gpiosim.NewSim(gpiosim.WithBank(gpiosim.NewBank("greenhouse", 4,
		gpiosim.WithNamedLine(0, "DOOR"), gpiosim.WithNamedLine(1, "PUMP"), gpiosim.WithNamedLine(2, "FAN"),
		gpiosim.WithHoggedLine(2, "fan-controller", gpiosim.HogDirectionInput))))
	if err != nil {
		t.Fatal(err)
	}
	return sim
}

func machine(t *testing.T) board.Board {
	t.Helper()
	b, err := linux.New(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// next returns the next reading.
func next(t *testing.T, readings <-chan sensors.Reading) sensors.Reading {
	t.Helper()
	select {
	case r := <-readings:
		return r
	case <-time.After(5 * time.Second):
		t.Fatal("no reading")
	}
	return sensors.Reading{}
}

func TestSimInput(t *testing.T) {
	vm.Need(t)
	sim := plug(t)
	defer func() { sim.Close() }()
	in := &gpio.Input{
		Point: "greenhouse/door",
		Line:  board.LineConfig{Name: "DOOR", Pull: board.PullUp, ActiveLow: true, Debounce: 5 * time.Millisecond},
		Board: machine(t),
	}
	ctx, cancel := context.WithCancel(t.Context())
	readings := make(chan sensors.Reading, 16) // more than this test provokes
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx, func(r sensors.Reading) { readings <- r }) }()

	if r := next(t, readings); r.Value != false || r.Quality != sensors.Good {
		t.Errorf("at start %+v, want off: the contact is open and pulled up", r)
	}
	if err := sim.Chips[0].Pulldown(0); err != nil {
		t.Fatal(err)
	}
	if r := next(t, readings); r.Value != true {
		t.Errorf("contact closed: %+v, want on", r)
	}
	sim.Close()
	if r := next(t, readings); r.Quality != sensors.Bad || r.Value != nil || !errors.Is(r.Err, board.ErrGone) {
		t.Errorf("chip gone: %+v, want bad, ErrGone", r)
	}
	sim = plug(t)
	if r := next(t, readings); r.Quality != sensors.Good {
		t.Errorf("chip back: %+v", r)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(readings) > 0 {
		t.Errorf("a reading too many: %+v", <-readings)
	}
}

func TestSimOutput(t *testing.T) {
	vm.Need(t)
	sim := plug(t)
	defer func() { sim.Close() }()
	pump := func() int {
		t.Helper()
		level, err := sim.Chips[0].Level(1)
		if err != nil {
			t.Fatal(err)
		}
		return level
	}
	b := machine(t)
	// A relay that switches at the low level: off is high.
	o := gpio.NewOutput(b, board.LineConfig{Name: "PUMP", ActiveLow: true})
	if pump() != 1 {
		t.Error("not safe at start")
	}
	if err := o.Write(t.Context(), true); err != nil || pump() != 0 {
		t.Errorf("on: level %d, %v", pump(), err)
	}
	if v, err := o.Read(t.Context()); err != nil || v != true {
		t.Errorf("Read = %v, %v", v, err)
	}
	sim.Close()
	if err := o.Write(t.Context(), true); !errors.Is(err, board.ErrGone) {
		t.Errorf("Write without a chip: %v, want ErrGone", err)
	}
	sim = plug(t)
	if v, err := o.Read(t.Context()); err != nil || v != false || pump() != 1 {
		t.Errorf("chip back: %v, %v, level %d, want it safe", v, err, pump())
	}
	if err := o.Write(t.Context(), true); err != nil {
		t.Error(err)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}

	fan := gpio.NewOutput(b, board.LineConfig{Name: "FAN"})
	if err := fan.MakeSafe(t.Context()); !errors.Is(err, board.ErrBusy) || !strings.Contains(err.Error(), `"fan-controller"`) {
		t.Errorf("a line that the kernel has given away: %v", err)
	}
}
