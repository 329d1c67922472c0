package sensors

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// restartDelay is the pause before a driver that panicked is started again.
const restartDelay = 10 * time.Second

// A Source is a driver with the points that it serves.
type Source struct {
	Name   string // for people: "serial /dev/ttyUSB0"
	Driver Driver
	Points []string
}

// Run keeps the driver running until ctx ends. A driver that panics costs its own points their
// quality, nobody else anything, and is started again after a pause; one that gives up for good
// leaves its points bad. Either is logged once.
func (s Source) Run(ctx context.Context, emit func(Reading), log *slog.Logger) {
	for {
		err := guard(func() error { return s.Driver.Run(ctx, emit) })
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = fmt.Errorf("the driver ended")
		}
		log.Error("driver stopped", "driver", s.Name, "err", err)
		for _, p := range s.Points {
			emit(bad(p, "", fmt.Errorf("%s: %w", s.Name, err), time.Now()))
		}
		p, panicked := err.(*panicError)
		if !panicked {
			return
		}
		log.Error("the driver will be started again; please report this", "driver", s.Name, "in", restartDelay, "stack", string(p.stack))
		select {
		case <-ctx.Done():
			return
		case <-time.After(restartDelay):
		}
	}
}

// A panicError is a driver's panic.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("fault in the driver: %v", e.value) }

// guard calls f and returns its panic, if any, as a *panicError.
func guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{value: v, stack: debug.Stack()}
		}
	}()
	return f()
}
