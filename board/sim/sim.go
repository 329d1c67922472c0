// Package sim is a board for laptops, demos and tests: a greenhouse that obeys physics, behind
// the lines and ports of package board.
package sim

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"gateway/board"
)

// Defaults of Options.
const (
	DefaultSpeed     = 20
	DefaultTimeOfDay = 10 * time.Hour
	DefaultDoorEvery = 15 * time.Minute
)

// waitPoll is how often Wait looks at an input.
const waitPoll = 20 * time.Millisecond

// Options say how the greenhouse runs.
type Options struct {
	Speed     float64       // simulated seconds per second; 0: DefaultSpeed
	Seed      uint64        // of the weather and the door: the same seed is the same day
	TimeOfDay time.Duration // at the start, since midnight; 0: DefaultTimeOfDay
	DoorEvery time.Duration // mean simulated time until the door opens; 0: DefaultDoorEvery; < 0: never
}

// A Board is a simulated greenhouse. It implements board.Board.
//
// Outputs: HEATER (3 kW), VENT (opens and closes within 20 s of simulated time), FAN, PUMP (from
// the tank to the beds) and LAMP. Inputs: DOOR (true: open) and FLOAT (true: the tank has water).
// The relays are wired as configured: the logical level switches, ActiveLow or not; there is no
// pull and nothing bounces.
//
// Ports: "sim:climate" sends a JSON object each second with air and outside (°C), humidity and
// soil (%), sun (W/m²), vent (%, 100 is open), tank (%), door (true: open) and time (of day).
// "sim:weather" sends "outside;sun;humidity" each second. What is written to them is ignored.
//
// Nothing runs by itself: the house is brought up to date whenever somebody looks.
type Board struct {
	speed float64

	mu    sync.Mutex // guards what follows
	house *greenhouse
	last  time.Time // up to which the house has been brought
	taken map[string]bool
}

// New returns a greenhouse in the morning.
func New(o Options) *Board {
	if o.Speed <= 0 || math.IsInf(o.Speed, 0) || math.IsNaN(o.Speed) {
		o.Speed = DefaultSpeed
	}
	if o.TimeOfDay <= 0 {
		o.TimeOfDay = DefaultTimeOfDay
	}
	switch {
	case o.DoorEvery < 0:
		o.DoorEvery = 0
	case o.DoorEvery == 0:
		o.DoorEvery = DefaultDoorEvery
	}
	return &Board{
		speed: o.Speed,
		house: newGreenhouse(o.Seed, o.TimeOfDay.Seconds(), o.DoorEvery.Seconds()),
		last:  time.Now(),
		taken: make(map[string]bool),
	}
}

// Door opens or closes the door by hand; from then on it stays as it is put.
func (b *Board) Door(open bool) {
	b.look(func(g *greenhouse) { g.door, g.doorEvery = open, 0 })
}

// look brings the house up to date and calls f with it.
func (b *Board) look(f func(g *greenhouse)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.house.run(now.Sub(b.last).Seconds() * b.speed)
	b.last = now
	f(b.house)
}

// take reserves a line or port for one user.
func (b *Board) take(name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.taken[name] {
		return fmt.Errorf("%s is taken already: %w", name, board.ErrBusy)
	}
	b.taken[name] = true
	return nil
}

func (b *Board) release(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.taken, name)
}

// outputs and inputs are the lines.
var (
	outputs = map[string]func(g *greenhouse) *bool{
		"HEATER": func(g *greenhouse) *bool { return &g.heater },
		"VENT":   func(g *greenhouse) *bool { return &g.vent },
		"FAN":    func(g *greenhouse) *bool { return &g.fan },
		"PUMP":   func(g *greenhouse) *bool { return &g.pump },
		"LAMP":   func(g *greenhouse) *bool { return &g.lamp },
	}
	inputs = map[string]func(g *greenhouse) bool{
		"DOOR":  func(g *greenhouse) bool { return g.door },
		"FLOAT": func(g *greenhouse) bool { return g.tank >= floatLevel*tankMass },
	}
)

// names returns the names of lines or ports for people.
func names[V any](m map[string]V) string {
	var all []string
	for name := range m {
		all = append(all, name)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// Line implements board.Board.
func (b *Board) Line(c board.LineConfig) (board.Line, error) {
	l := &line{board: b, name: c.Name, output: outputs[c.Name], input: inputs[c.Name], closed: make(chan struct{})}
	switch {
	case l.output == nil && l.input == nil:
		return nil, fmt.Errorf("the simulated greenhouse has no line %q; outputs are %s, inputs are %s", c.Name, names(outputs), names(inputs))
	case c.Output && l.output == nil:
		return nil, fmt.Errorf("line %s of the simulated greenhouse is an input; outputs are %s", c.Name, names(outputs))
	case !c.Output && l.input == nil:
		return nil, fmt.Errorf("line %s of the simulated greenhouse is an output; inputs are %s", c.Name, names(inputs))
	}
	if err := b.take(c.Name); err != nil {
		return nil, fmt.Errorf("line %w", err)
	}
	b.look(func(g *greenhouse) {
		if c.Output {
			*l.output(g) = c.Initial
		} else {
			l.seen = l.input(g)
		}
	})
	return l, nil
}

// A line is a requested line: output or input is set, the other is nil.
type line struct {
	board  *Board
	name   string
	output func(*greenhouse) *bool
	input  func(*greenhouse) bool

	closeOnce sync.Once
	closed    chan struct{}

	seen bool // input: the level that Wait returned last; the board's lock guards it
}

func (l *line) fault() error {
	select {
	case <-l.closed:
		return fmt.Errorf("line %s: %w", l.name, fs.ErrClosed)
	default:
		return nil
	}
}

// Get implements board.Line.
func (l *line) Get() (on bool, err error) {
	if err := l.fault(); err != nil {
		return false, err
	}
	l.board.look(func(g *greenhouse) {
		if l.output != nil {
			on = *l.output(g)
		} else {
			on = l.input(g)
		}
	})
	return on, nil
}

// Set implements board.Line.
func (l *line) Set(on bool) error {
	if err := l.fault(); err != nil {
		return err
	}
	if l.output == nil {
		return fmt.Errorf("line %s is an input: it cannot be set", l.name)
	}
	l.board.look(func(g *greenhouse) { *l.output(g) = on })
	return nil
}

// Wait implements board.Line. Of changes between two calls it tells the last.
func (l *line) Wait(ctx context.Context) (bool, error) {
	if l.input == nil {
		return false, fmt.Errorf("line %s is an output: it has no changes to wait for", l.name)
	}
	tick := time.NewTicker(waitPoll)
	defer tick.Stop()
	for {
		if err := l.fault(); err != nil {
			return false, err
		}
		var changed, level bool
		l.board.look(func(g *greenhouse) {
			level = l.input(g)
			changed = level != l.seen
			l.seen = level
		})
		if changed {
			return level, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-l.closed:
		case <-tick.C:
		}
	}
}

// Close implements board.Line. An output falls back to off.
func (l *line) Close() error {
	l.closeOnce.Do(func() {
		close(l.closed)
		if l.output != nil {
			l.board.look(func(g *greenhouse) { *l.output(g) = false })
		}
		l.board.release(l.name)
	})
	return nil
}
