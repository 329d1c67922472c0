package linux

import (
	"time"

	"periph.io/x/conn/v3/gpio"
	"periph.io/x/host/v3/gpioioctl"

	"gateway/board"
)

// A lineSet is a line taken through periph.io: a gpioioctl.LineSet of one. gpioioctl.GPIOLine
// is not for us: reading an output through it makes the output an input.
type lineSet struct {
	lines *gpioioctl.LineSet
}

// suitsLineSet tells whether periph.io can take the line as it must be taken. It finds lines by
// name only, and gives an output the level low together with its direction, whatever comes after.
func suitsLineSet(p place, c board.LineConfig) bool {
	return p.name != "" && (!c.Output || c.Initial == c.ActiveLow) && periphChip(p) != nil
}

// periphChip returns the chip of a line if periph.io saw it at start and the line is the first
// of its name there.
func periphChip(p place) *gpioioctl.GPIOChip {
	for _, chip := range gpioioctl.Chips {
		if chip.Name() != p.chip {
			continue
		}
		if line := chip.ByName(p.name); line != nil && line.Number() == p.offset {
			return chip
		}
	}
	return nil
}

// requestLineSet takes a line. Its error has lost the kernel's errno.
func requestLineSet(p place, c board.LineConfig) (request, error) {
	direction, edge, pull := gpioioctl.LineInput, gpio.BothEdges, gpio.PullNoChange
	switch {
	case c.Output:
		direction, edge = gpioioctl.LineOutput, gpio.NoEdge
	case c.Pull == board.PullUp:
		pull = gpio.PullUp
	case c.Pull == board.PullDown:
		pull = gpio.PullDown
	}
	lines, err := periphChip(p).LineSet(direction, edge, pull, p.name)
	if err != nil {
		return nil, err
	}
	if !c.Output {
		// The first wait makes the file that Halt interrupts: let it be over before there are
		// two goroutines. Its limit has passed before it begins.
		_, _, _ = lines.WaitForEdge(time.Nanosecond)
	}
	return &lineSet{lines}, nil
}

func (l *lineSet) get() (high bool, err error) {
	v, err := l.lines.Read(1)
	return v&1 != 0, err
}

func (l *lineSet) set(high bool) error {
	var v gpio.GPIOValue
	if high {
		v = 1
	}
	return l.lines.Out(v, 1)
}

// edge needs a positive limit: for periph.io 0 is for ever and -1 is not at all.
func (l *lineSet) edge(limit time.Duration) (high bool, err error) {
	_, e, err := l.lines.WaitForEdge(limit)
	return e == gpio.RisingEdge, err
}

func (l *lineSet) interrupt() error { return l.lines.Halt() }

func (l *lineSet) close() error { return l.lines.Close() }
