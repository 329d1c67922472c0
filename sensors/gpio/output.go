package gpio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"gateway/board"
	"gateway/sensors"
)

// An Output is a digital output with a safe state. Whenever its line is taken, it has the safe
// level before it is an output.
//
// A line that cannot be had, because another program holds it or its chip is not plugged in, is
// asked for again by each operation, which fails with the reason until it is there. Asking for
// the safe state again and again, as a desk does, so takes it as soon as it is free.
type Output struct {
	board  board.Board
	config board.LineConfig // Initial is the safe state

	// mu is held during an operation on the line, which takes microseconds: the line is one
	// wire, and a command must not meet a line that is being closed.
	mu     sync.Mutex
	line   board.Line // nil: not held
	closed bool
}

var _ sensors.Actuator = (*Output)(nil)

// NewOutput takes the line at its safe state, which is c.Initial. Whether it could be had, the
// first operation tells.
func NewOutput(b board.Board, c board.LineConfig) *Output {
	c.Output = true
	o := &Output{board: b, config: c}
	if l, err := b.Line(c); err == nil {
		o.line = l
	}
	return o
}

// Write implements sensors.Actuator for bool values.
func (o *Output) Write(_ context.Context, v sensors.Value) error {
	on, ok := v.(bool)
	if !ok {
		return fmt.Errorf("line %s: %v is neither on nor off", o.config.Name, v)
	}
	return o.set(on)
}

// Read implements sensors.Actuator: it measures the line and does not disturb it.
func (o *Output) Read(context.Context) (v sensors.Value, err error) {
	err = o.do(func(l board.Line) error {
		on, err := l.Get()
		if err == nil {
			v = on
		}
		return err
	})
	return v, err
}

// MakeSafe implements sensors.Actuator.
func (o *Output) MakeSafe(context.Context) error { return o.set(o.config.Initial) }

// Close sets the safe state and releases the line. What becomes of the level then is the
// board's affair.
func (o *Output) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	if o.line == nil {
		return nil
	}
	err := errors.Join(o.line.Set(o.config.Initial), o.line.Close())
	o.line = nil
	return err
}

func (o *Output) set(on bool) error {
	return o.do(func(l board.Line) error { return l.Set(on) })
}

// do runs an operation on the line and takes the line before, if it is not held. A line that
// does not work is given back: it may be another one when it is taken again.
func (o *Output) do(operation func(board.Line) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return fmt.Errorf("line %s: %w", o.config.Name, os.ErrClosed)
	}
	if o.line == nil {
		l, err := o.board.Line(o.config)
		if err != nil {
			return err
		}
		o.line = l
	}
	err := operation(o.line)
	if errors.Is(err, board.ErrGone) {
		err = errors.Join(err, o.line.Close())
		o.line = nil
	}
	return err
}
