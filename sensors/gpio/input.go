// Package gpio drives digital inputs and outputs as points of the gateway.
package gpio

import (
	"context"
	"errors"
	"time"

	"gateway/board"
	"gateway/sensors"
)

// A line that cannot be had is asked for again after retryMin, then after twice as long, up to
// retryMax.
const (
	retryMin = 250 * time.Millisecond
	retryMax = 5 * time.Second
)

// An Input is a digital input. It tells its level at start, at each (debounced) edge, and again
// after Heartbeat without one. When its chip leaves the machine it tells that once, with quality
// Bad, and goes on when the chip is back.
type Input struct {
	Point     string
	Line      board.LineConfig
	Board     board.Board
	Heartbeat time.Duration // 0: never
}

var _ sensors.Driver = (*Input)(nil)

// Run implements sensors.Driver. It returns nil when ctx ends: a fault of a line may always be
// mended by a hand that plugs something in or ends another program.
func (in *Input) Run(ctx context.Context, emit func(sensors.Reading)) error {
	pause := retryMin
	told := false
	for {
		err := in.follow(ctx, func(on bool) {
			pause, told = retryMin, false
			emit(sensors.Reading{Point: in.Point, Value: on, At: time.Now()})
		})
		if ctx.Err() != nil {
			return nil
		}
		if !told {
			told = true
			emit(sensors.Reading{Point: in.Point, Quality: sensors.Bad, Err: err, At: time.Now()})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, retryMax)
	}
}

// follow takes the line and tells its level until something goes wrong.
func (in *Input) follow(ctx context.Context, tell func(on bool)) (err error) {
	line, err := in.Board.Line(in.Line)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, line.Close()) }()
	on, err := line.Get()
	for {
		if err != nil {
			return err
		}
		tell(on)
		on, err = in.next(ctx, line)
	}
}

// next returns the level after the next edge, or after the heartbeat.
func (in *Input) next(ctx context.Context, line board.Line) (bool, error) {
	if in.Heartbeat <= 0 {
		return line.Wait(ctx)
	}
	beat, cancel := context.WithTimeout(ctx, in.Heartbeat)
	defer cancel()
	on, err := line.Wait(beat)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return line.Get()
	}
	return on, err
}
