// Package board says what a machine has for the gateway to use: digital lines and serial ports.
// Packages below it find them on a real board (linux) or imagine them (sim).
package board

import (
	"context"
	"errors"
	"io"
	"time"
)

// ErrBusy tells that another program holds the line or port.
var ErrBusy = errors.New("in use by another program")

// ErrGone tells that the line or port has left the machine, as an unplugged adapter does.
var ErrGone = errors.New("no longer there")

// A Pull is the resistor that an input is held by.
type Pull byte

// The pulls.
const (
	PullNone Pull = iota
	PullUp
	PullDown
)

// LineConfig says how a digital line is to be used. Levels are logical: ActiveLow turns them
// round, so that true is always "on".
type LineConfig struct {
	Name      string // as the kernel names it ("GPIO17"), or "gpiochip0:17"
	Output    bool
	Initial   bool // output: the level to have before the direction is set, so that no relay clicks
	ActiveLow bool
	Pull      Pull          // input
	Debounce  time.Duration // input: a level counts after it has been steady for so long; 0 none
}

// A Line is one requested digital line.
type Line interface {
	// Get reads the level that the hardware has now; on an output it does not disturb it.
	Get() (bool, error)
	// Set drives an output.
	Set(on bool) error
	// Wait returns the level after the next change of a (debounced) input, or ctx's error.
	Wait(ctx context.Context) (bool, error)
	// Close releases the line; Wait returns.
	Close() error
}

// PortConfig says how a serial port is to be opened.
type PortConfig struct {
	Name     string // a path, best of /dev/serial/by-id
	Baud     int
	DataBits int    // 5 to 8
	Parity   string // "none", "even", "odd"
	StopBits int    // 1 or 2
}

// A Port is an open serial port. Read returns 0, nil when nothing came within 100 ms, and
// ErrGone, wrapped, when the adapter has been unplugged.
type Port interface {
	io.ReadWriteCloser
}

// A Board gives access to the lines and ports of one machine.
type Board interface {
	Line(c LineConfig) (Line, error)
	Port(c PortConfig) (Port, error)
}
