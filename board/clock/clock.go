// Package clock knows the time of day on a machine whose clock may be wrong. A board without a
// battery wakes up in 1970, or where it stopped; somebody types the wrong year; a time server
// corrects either by decades. What must not jump is measured by monotonic time. What must have a
// date gets it from here.
package clock

import (
	"sync"
	"time"
)

const (
	// slack is how far behind the floor a clock may be and be believed: a battery-backed clock
	// is not set with every second that the gateway has seen.
	slack = 10 * time.Minute
	// jump is how far a clock that was right may step and be believed at once.
	jump = 24 * time.Hour
	// probation is how long it has to stay where a longer step has brought it.
	probation = 24 * time.Hour
)

// earliest is a time before which no gateway ran: a clock that says less was never set.
var earliest = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// A Clock is the time of day, as far as it is known. It is
//
//   - what the kernel's clock says while the kernel says that a time server keeps it;
//   - unknown while systemd-timesyncd looks for a time server on a board without a battery: until
//     then the kernel's clock goes on from where the board stopped;
//   - else what the kernel's clock says, once that is not before the floor, which is the newest time
//     that the machine is known to have seen. From then on a step of more than a day, or behind the
//     floor, is not believed until it has lasted for a day;
//   - else the floor and the time since: unknown, but not before anything that was.
//
// Its methods may be called from any goroutine.
type Clock struct {
	read func() reading

	mu    sync.Mutex
	floor time.Time
	start time.Time // the time of day when the machine started
	known bool
	kept  bool // by a time server
	other struct {
		start time.Time // what the kernel says instead, zero: nothing else
		since time.Duration
	}
}

// A reading is what the kernel says at one instant.
type reading struct {
	wall   time.Time
	uptime time.Duration // since the machine started, time asleep included
	kept   bool          // a time server keeps the clock
	sought bool          // one is looked for, and the clock has no battery
}

// glance is for how long one look at the kernel is enough.
const glance = 100 * time.Millisecond

// New returns the clock of this machine. The time of day is not before any of floors; a zero time
// says nothing.
func New(floors ...time.Time) *Clock { return newClock(rarely(read), floors...) }

// rarely asks the kernel once in a glance, and adds the time that has passed since.
func rarely(read func() reading) func() reading {
	var last reading
	var at time.Time
	return func() reading {
		now := time.Now()
		passed := now.Sub(at)
		if at.IsZero() || passed >= glance {
			last, at, passed = read(), now, 0
		}
		r := last
		r.wall, r.uptime = r.wall.Add(passed), r.uptime+passed
		return r
	}
}

func newClock(read func() reading, floors ...time.Time) *Clock {
	c := &Clock{read: read}
	c.Raise(earliest)
	for _, t := range floors {
		c.Raise(t)
	}
	return c
}

// Raise says that the time of day is not before t. A clock that is was not right.
func (c *Clock) Raise(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t = t.Round(0)
	if t.After(c.floor) {
		c.floor = t
	}
	r := c.observe()
	if c.kept || !c.start.Add(r.uptime+slack).Before(c.floor) {
		return
	}
	c.start, c.known = c.floor.Add(-r.uptime), false
	c.observe()
}

// Resume says what time of day a moment in this process was, as an earlier process knew it since
// the machine has started: a step of the clock is one for this process, too.
func (c *Clock) Resume(at, day time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	uptime := c.observe().uptime - time.Since(at)
	if start := day.Round(0).Add(-uptime); !start.Add(uptime + slack).Before(c.floor) {
		c.start, c.known = start, true
		c.other.start = time.Time{}
		c.observe()
	}
}

// Date returns the time of day of a moment in this process, as far as it is known now, and
// whether it is. The same moment may be dated otherwise later.
func (c *Clock) Date(at time.Time) (day time.Time, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.observe()
	return c.start.Add(r.uptime - time.Since(at)), c.known
}

// Now returns the time by which certificates are judged: the time of day, and not before the floor
// unless a time server says so.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.observe()
	if now := c.start.Add(r.uptime); c.kept || now.After(c.floor) {
		return now
	}
	return c.floor
}

// observe looks at the kernel's clock. The lock is held.
func (c *Clock) observe() reading {
	r := c.read()
	start := r.wall.Round(0).Add(-r.uptime)
	believed := !r.wall.Add(slack).Before(c.floor) && (!c.known || start.Sub(c.start).Abs() < jump)
	c.kept = r.kept
	switch {
	case r.kept:
	case r.sought && !c.known:
		if start.After(c.start) {
			c.start = start // it can be no earlier than that
		}
		return r
	case believed:
	case r.wall.Before(earliest):
		return r // it was never set
	case c.other.start.IsZero(), start.Sub(c.other.start).Abs() >= jump:
		c.other.start, c.other.since = start, r.uptime
		return r
	case r.uptime-c.other.since < probation:
		return r
	}
	if !believed && r.wall.Before(c.floor) {
		c.floor = r.wall.Round(0) // it came from a time that was wrong
	}
	c.start, c.known = start, true
	c.other.start = time.Time{}
	return r
}
