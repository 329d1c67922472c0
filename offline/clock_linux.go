package offline

import (
	"encoding/binary"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gateway/broker/session"
)

// A stamp is the time of a record, by three clocks. The wall clock survives everything but may
// jump, by decades on a board without a clock chip. The time since the machine started does not
// jump, but means nothing after the machine has started again, which is what boot tells.
type stamp struct {
	wall   int64         // Unix time in nanoseconds
	boot   uint64        // which start of the machine, as the store counts them from 1
	uptime time.Duration // since that start, time asleep included; milliseconds on disk
	waited time.Duration // what had passed before; milliseconds on disk
}

// time is what the wall clock said.
func (s stamp) time() time.Time { return time.Unix(0, s.wall) }

func (s stamp) append(rec []byte) []byte {
	rec = binary.BigEndian.AppendUint64(rec, uint64(s.wall))
	rec = binary.AppendUvarint(rec, s.boot)
	rec = binary.AppendUvarint(rec, uint64(s.uptime.Milliseconds()))
	return binary.AppendUvarint(rec, uint64(s.waited.Milliseconds()))
}

func parseStamp(p *parser) stamp {
	return stamp{
		wall: int64(p.uint64()), boot: p.uvarint(),
		uptime: milliseconds(p.uvarint()), waited: milliseconds(p.uvarint()),
	}
}

// milliseconds limits what a record says to a hundred years, so that sums cannot overflow.
func milliseconds(n uint64) time.Duration {
	const limit = 100 * 365 * 24 * time.Hour
	return time.Duration(min(n, uint64(limit.Milliseconds()))) * time.Millisecond
}

// A Clock knows the time of day, on a machine whose own clock may be wrong.
type Clock interface {
	// Date returns the time of day of a moment in this process, as far as it is known now, and
	// whether it is.
	Date(at time.Time) (day time.Time, known bool)
	// Raise says that the time of day is not before t.
	Raise(t time.Time)
	// Resume says what time of day a moment in this process was, as an earlier process knew it
	// since the machine has started.
	Resume(at, day time.Time)
}

// A kernelClock takes the machine's clock for right, unless it was never set.
type kernelClock struct{}

func (kernelClock) Date(at time.Time) (time.Time, bool) { return at, at.UnixNano() >= unset }
func (kernelClock) Raise(time.Time)                     {}
func (kernelClock) Resume(_, _ time.Time)               {}

// unset is a time before which no gateway ran, as Unix time in nanoseconds.
var unset = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()

// A clock stamps records and tells how old they are. But for noted, its fields do not change
// while a store is open.
type clock struct {
	Clock
	opened time.Time     // with a monotonic reading
	uptime time.Duration // of the machine, at opened
	boot   uint64
	starts map[uint64]start // of the machine, before this one
	noted  note             // the committer's, once it runs
}

// A start is when the machine started, by the time of day. Known, it dates all records that were
// made until the machine started again.
type start struct {
	day   time.Time
	known bool
}

// A note is what the file says about this start of the machine.
type note struct {
	start
	at time.Time
}

// newClock reads the clocks of the machine. Its boot is known when the store is.
func newClock(day Clock) *clock {
	c := &clock{Clock: day, opened: time.Now(), starts: make(map[uint64]start)}
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) == nil {
		c.uptime = time.Duration(ts.Nano())
	}
	return c
}

// stamp is for something that happened at a time, after it had waited in earlier runs.
func (c *clock) stamp(at time.Time, waited time.Duration) stamp {
	since := min(max(at.Sub(c.opened), 0), time.Since(c.opened))
	day, _ := c.Date(c.opened)
	return stamp{wall: day.Add(since).UnixNano(), boot: c.boot, uptime: c.uptime + since, waited: max(waited, 0)}
}

// of is the stamp of a message. What nobody could date before stays undated: its stamp is of no start
// of the machine, and has only what the message is known to have waited.
func (c *clock) of(m *session.Message) stamp {
	s := c.stamp(m.At, m.Waited)
	if m.Undated {
		s.wall, s.boot = 0, 0
	}
	return s
}

// restore says when something happened: at, in this run of the gateway, after it had waited in
// earlier ones. What is from an earlier run has at = the start of this one.
//
// While the machine has not started again, waited is exact whatever the wall clock did. After that
// it is the time from one date to the other, as far as they are known: never too long because a
// clock jumped, never negative.
func (c *clock) restore(s stamp) moment {
	if s.boot == c.boot {
		since := s.uptime - c.uptime.Truncate(time.Millisecond)
		if since >= 0 {
			return moment{at: c.opened.Add(since), waited: s.waited}
		}
		return moment{at: c.opened, waited: s.waited - since}
	}
	taken, undated := s.wall, s.wall < unset
	if then, ok := c.starts[s.boot]; ok {
		taken, undated = then.day.Add(s.uptime).UnixNano(), !then.known
	}
	m := moment{at: c.opened, waited: s.waited, undated: undated}
	if !undated {
		// The clock may have been set since the store was opened: ask it now.
		now, _ := c.Date(c.opened)
		m.waited += elapsed(taken, now.UnixNano())
	}
	return m
}

// elapsed is the time between two times of day, or 0 if they cannot be compared: they are in the
// wrong order, or more than ten years apart.
func elapsed(from, to int64) time.Duration {
	if to < from || to-from > int64(10*365*24*time.Hour) {
		return 0
	}
	return time.Duration(to - from)
}

// bootID names the present start of the machine. It is empty if the kernel does not tell.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
