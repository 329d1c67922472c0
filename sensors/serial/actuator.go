package serial

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"gateway/sensors"
)

// A Write sends a frame for each command of a point. If a field of the frames that come back has
// the same point, it is what is measured; otherwise nothing measures the output.
type Write struct {
	Point    string
	Template string        // "{value}" stands for the value; the delimiter is added
	Words    sensors.Words // of a switch
	Safe     sensors.Value // what MakeSafe writes; nil: nothing, the device looks after itself
	Reply    time.Duration // how long the device may take to report a new value; 0: DefaultReply
}

// An actuator writes to the port of its driver.
type actuator struct {
	driver *Driver
	cfg    Write
	echoes bool // a field has its point

	mu     sync.Mutex // guards what follows
	asked  sensors.Value
	open   bool // asked has been written, and neither been reported nor given up since
	value  sensors.Value
	err    error         // why there is no value
	fresh  bool          // value or err came after the last write
	update chan struct{} // closed by the next report
}

func newActuator(d *Driver, w Write) *actuator {
	if w.Reply <= 0 {
		w.Reply = DefaultReply
	}
	return &actuator{
		driver: d,
		cfg:    w,
		echoes: slices.Contains(d.Points(), w.Point),
		err:    fmt.Errorf("serial port %s: nothing reported yet", d.cfg.Port.Name),
		update: make(chan struct{}),
	}
}

// Write implements sensors.Actuator. It returns when the frame has been handed to the port.
func (a *actuator) Write(ctx context.Context, v sensors.Value) error {
	value := a.cfg.Words.Format(v)
	if strings.IndexFunc(value, control) >= 0 || strings.Contains(value, a.driver.cfg.Delimiter) {
		return fmt.Errorf("%.40q would end the frame or hide in it: control characters and the delimiter cannot be sent", value)
	}
	frame := strings.ReplaceAll(a.cfg.Template, "{value}", value) + a.driver.cfg.Delimiter
	a.mu.Lock()
	a.asked, a.open, a.fresh = v, true, false
	a.mu.Unlock()
	return a.driver.write(ctx, []byte(frame))
}

// Read implements sensors.Actuator. After a Write it waits for the device to report the written
// value. What the device sent before it knew of the command may come first, so another value
// counts only when the time for the reply is over.
func (a *actuator) Read(ctx context.Context) (sensors.Value, error) {
	if !a.echoes {
		return nil, sensors.ErrNotMeasured
	}
	timeout := time.NewTimer(a.cfg.Reply)
	defer timeout.Stop()
	for {
		a.mu.Lock()
		value, err, update := a.value, a.err, a.update
		confirmed := a.fresh && (a.err != nil || a.value == a.asked)
		if !a.open || confirmed {
			a.open = false
			a.mu.Unlock()
			return value, err
		}
		a.mu.Unlock()
		select {
		case <-update:
		case <-timeout.C:
			return a.giveUp(fmt.Errorf("the device has reported nothing for %s after the command", a.cfg.Reply))
		case <-ctx.Done():
			return a.giveUp(ctx.Err())
		}
	}
}

// giveUp ends the wait for the written value: the newest report counts, or silence.
func (a *actuator) giveUp(silence error) (sensors.Value, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open = false
	if !a.fresh {
		return nil, silence
	}
	return a.value, a.err
}

// MakeSafe implements sensors.Actuator.
func (a *actuator) MakeSafe(ctx context.Context) error {
	if a.cfg.Safe == nil {
		return nil
	}
	return a.Write(ctx, a.cfg.Safe)
}

// report takes what the device says about the point, or why it says nothing.
func (a *actuator) report(v sensors.Value, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.value, a.err, a.fresh = v, err, true
	close(a.update)
	a.update = make(chan struct{})
}

// write sends a frame. One at a time: frames do not mix.
func (d *Driver) write(ctx context.Context, frame []byte) error {
	select {
	case d.writing <- struct{}{}:
		defer func() { <-d.writing }()
	case <-ctx.Done():
		return fmt.Errorf("serial port %s: write: another frame is still being written: %w", d.cfg.Port.Name, ctx.Err())
	}
	d.mu.Lock()
	port, away := d.port, d.away
	d.mu.Unlock()
	if port == nil {
		return away
	}
	n, err := port.Write(frame)
	if err == nil && n < len(frame) {
		err = errors.New("the port took only a part of the frame")
	}
	return err
}
