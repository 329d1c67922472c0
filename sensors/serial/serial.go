// Package serial reads points from devices that send frames of text over a serial port, and
// writes commands to them.
package serial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"gateway/board"
	"gateway/sensors"
)

// Defaults of a Config.
const (
	DefaultDelimiter = "\n"
	DefaultMaxFrame  = 1024 // bytes
	DefaultReply     = 3 * time.Second
)

// Times of the driver.
const (
	firstRetry  = 250 * time.Millisecond // before a port is opened again, doubled up to
	lastRetry   = 5 * time.Second
	noiseLogged = time.Minute // between two lines about frames that cannot be read
)

// A Config describes a port and the device behind it.
type Config struct {
	Port      board.PortConfig
	Delimiter string        // ends a frame; a CR before it is no part of the frame
	MaxFrame  int           // bytes; a longer frame is dropped
	Idle      time.Duration // after so long without a byte all points are bad; 0: never
	Frames    []Frame
	Writes    []Write
}

// Stats counts what came through a port.
type Stats struct {
	Opened     int64 // times
	Frames     int64 // complete and not empty
	Unreadable int64 // of them, or instead of them: too long, or with control characters
	Unmatched  int64 // of no sort
	Faults     int64 // fields that were missing or had no value of their kind
}

// A Driver is a serial port with a device that sends frames.
//
// A port that is missing or unplugged is opened again until it is there, every 5 s at last; its
// points are bad meanwhile. A frame that cannot be read makes the points bad until the next good
// one: no value was measured. Each change is one bad reading and one line in the log.
type Driver struct {
	board board.Board
	cfg   Config
	log   *slog.Logger
	sorts []*sort
	acts  map[string]*actuator

	// writing holds one token while a frame is written; whoever finds it full waits, as long as
	// its context lets it.
	writing chan struct{}

	mu    sync.Mutex // guards what follows
	port  board.Port // nil: not open
	away  error      // why it is not open, or silent; nil: it works
	stats Stats
}

// New returns a driver for a port of b. The port is opened by Run.
func New(b board.Board, c Config, log *slog.Logger) (*Driver, error) {
	if c.Delimiter == "" {
		c.Delimiter = DefaultDelimiter
	}
	if c.MaxFrame <= 0 {
		c.MaxFrame = DefaultMaxFrame
	}
	d := &Driver{
		board:   b,
		cfg:     c,
		log:     log.With("port", c.Port.Name),
		acts:    make(map[string]*actuator),
		writing: make(chan struct{}, 1),
		away:    fmt.Errorf("serial port %s: not opened yet", c.Port.Name),
	}
	for _, f := range c.Frames {
		s, err := newSort(f)
		if err != nil {
			return nil, fmt.Errorf("serial port %s: %w", c.Port.Name, err)
		}
		d.sorts = append(d.sorts, s)
	}
	for _, w := range c.Writes {
		if d.acts[w.Point] != nil {
			return nil, fmt.Errorf("serial port %s: two writes have the point %q", c.Port.Name, w.Point)
		}
		d.acts[w.Point] = newActuator(d, w)
	}
	return d, nil
}

// Points returns the points that the frames are mapped to.
func (d *Driver) Points() []string { return points(d.sorts) }

// Actuator returns the actuator of a point of Config.Writes, or nil.
func (d *Driver) Actuator(point string) sensors.Actuator {
	if a := d.acts[point]; a != nil {
		return a
	}
	return nil
}

// Stats returns the counters.
func (d *Driver) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

func (d *Driver) count(n *int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	*n++
}

// Run implements sensors.Driver. It never gives up.
func (d *Driver) Run(ctx context.Context, emit func(sensors.Reading)) error {
	r := &reader{Driver: d, emit: emit, faults: make(map[string]fault), logged: make(map[fault]time.Time)}
	retry := firstRetry
	for ctx.Err() == nil {
		opened := time.Now()
		err := r.session(ctx)
		if ctx.Err() != nil {
			break
		}
		r.trouble(faultAway, err)
		if time.Since(opened) > lastRetry {
			retry = firstRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
		retry = min(2*retry, lastRetry)
	}
	return nil
}

// A fault is the sort of thing that is wrong with a point.
type fault byte

const (
	faultNone   fault = iota
	faultAway         // the port is not there
	faultIdle         // nothing comes
	faultNoise        // what comes cannot be read
	faultUnseen       // frames come, but none of the point's sort ever did
	faultField        // the frame has no value for the point
)

// A reader is the part of a Driver that only the goroutine of Run touches.
type reader struct {
	*Driver
	emit   func(sensors.Reading)
	faults map[string]fault    // per point, as told
	logged map[fault]time.Time // when it was last logged
	lost   string              // the trouble with the whole port that has been logged; "": none

	framer *framer
	heard  time.Time // the last byte, or the opening
	since  time.Time // the first byte since the opening
}

// session opens the port and reads it until it fails or ctx ends. It leaves it closed: as long
// as an unplugged adapter is open, it comes back under another name.
func (r *reader) session(ctx context.Context) (err error) {
	port, err := r.board.Port(r.cfg.Port)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.port = port
	r.stats.Opened++
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.port = nil
		r.mu.Unlock()
		if closeErr := port.Close(); closeErr != nil && ctx.Err() == nil {
			err = errors.Join(err, closeErr)
		}
	}()

	r.framer = newFramer(r.cfg.Delimiter, r.cfg.MaxFrame)
	r.heard, r.since = time.Now(), time.Time{}
	buf := make([]byte, 4096)
	for ctx.Err() == nil {
		n, err := port.Read(buf)
		now := time.Now()
		if n > 0 {
			r.heard = now
			if r.since.IsZero() {
				r.since = now
			}
			r.framer.push(buf[:n], func(frame []byte, err error) { r.frame(frame, err, now) })
		} else {
			r.framer.quiet()
		}
		if err != nil {
			return err
		}
		r.checkSilence(now)
	}
	return nil
}

// checkSilence looks for a port, or a sort of frame, that says nothing.
func (r *reader) checkSilence(now time.Time) {
	idle := r.cfg.Idle
	if idle <= 0 || len(r.sorts) == 0 { // a device that only listens is silent
		return
	}
	if now.Sub(r.heard) >= idle {
		r.trouble(faultIdle, fmt.Errorf("serial port %s: nothing received for %s: check the cable and the speed, now %d baud",
			r.cfg.Port.Name, idle, r.cfg.Port.Baud))
		return
	}
	if r.since.IsZero() || now.Sub(r.since) < idle {
		return
	}
	for _, s := range r.sorts {
		if s.seen {
			continue
		}
		err := errors.New("what the port sends has matched no frame of this point yet: check match, pattern and delimiter")
		for _, f := range s.Fields {
			if r.bad(f.Point, faultUnseen, err) {
				r.log.Warn("serial: no reading", "point", f.Point, "err", err)
			}
		}
	}
}

// frame handles one frame, or the news that there was one which cannot be read.
func (r *reader) frame(frame []byte, err error, now time.Time) {
	if err != nil {
		r.count(&r.stats.Unreadable)
		r.noise("serial: noise", faultNoise, err, now)
		for _, p := range r.Points() {
			r.bad(p, faultNoise, err)
		}
		return
	}
	if len(frame) == 0 {
		return
	}
	r.count(&r.stats.Frames)
	r.works()
	text, matched := string(frame), false
	for _, s := range r.sorts {
		values, mine := s.values(text)
		matched = matched || mine
		s.seen = s.seen || mine
		for _, v := range values {
			r.value(v, text, now)
		}
	}
	if !matched {
		r.count(&r.stats.Unmatched)
	}
}

// value emits one field of a frame.
func (r *reader) value(v fieldValue, frame string, now time.Time) {
	point := v.field.Point
	if v.err != nil {
		r.count(&r.stats.Faults)
		if r.bad(point, faultField, v.err) {
			r.noise("serial: no value", faultField, fmt.Errorf("point %s: %w in %.80q", point, v.err, frame), now)
		}
		return
	}
	r.faults[point] = faultNone
	if a := r.acts[point]; a != nil {
		a.report(v.value, nil)
	}
	r.emit(sensors.Reading{Point: point, Value: v.value, Unit: v.field.Unit, At: now})
}

// trouble makes all points bad, logs it if it is new, and lets writes know.
func (r *reader) trouble(f fault, err error) {
	r.mu.Lock()
	r.away = err
	r.mu.Unlock()
	if r.lost != err.Error() {
		r.lost = err.Error()
		r.log.Warn("serial: no readings; trying on", "err", err)
	}
	for _, p := range r.Points() {
		r.bad(p, f, err)
	}
}

// works ends the trouble.
func (r *reader) works() {
	if r.lost != "" {
		r.lost = ""
		r.log.Info("serial: readings again")
	}
	r.mu.Lock()
	r.away = nil
	r.mu.Unlock()
}

// bad emits a bad reading if the point does not have this fault already. What may come and go
// with every frame does not take turns with another fault of the frames.
func (r *reader) bad(point string, f fault, err error) bool {
	has := r.faults[point]
	if has == f || (f == faultNoise || f == faultUnseen) && has > faultIdle {
		return false
	}
	r.faults[point] = f
	if a := r.acts[point]; a != nil {
		a.report(nil, err)
	}
	var unit string
	for _, s := range r.sorts {
		for _, field := range s.Fields {
			if field.Point == point {
				unit = field.Unit
			}
		}
	}
	r.emit(sensors.Reading{Point: point, Unit: unit, Quality: sensors.Bad, Err: err, At: time.Now()})
	return true
}

// noise logs what may come with every frame, once a minute at most.
func (r *reader) noise(msg string, f fault, err error, now time.Time) {
	if last, ok := r.logged[f]; ok && now.Sub(last) < noiseLogged {
		return
	}
	r.logged[f] = now
	s := r.Stats()
	r.log.Warn(msg, "err", err, "unreadable", s.Unreadable, "faults", s.Faults)
}
