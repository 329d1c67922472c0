package offline

import (
	"encoding/binary"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
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

// A clock stamps records and tells how old they are. Its fields do not change while a store is
// open.
type clock struct {
	opened time.Time     // with a monotonic reading
	uptime time.Duration // of the machine, at opened
	boot   uint64
}

// newClock reads the clocks of the machine. Its boot is known when the store is.
func newClock() clock {
	c := clock{opened: time.Now()}
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) == nil {
		c.uptime = time.Duration(ts.Nano())
	}
	return c
}

// stamp is for something that happened at a time, after it had waited in earlier runs.
func (c clock) stamp(at time.Time, waited time.Duration) stamp {
	since := min(max(at.Sub(c.opened), 0), time.Since(c.opened))
	return stamp{wall: at.UnixNano(), boot: c.boot, uptime: c.uptime + since, waited: max(waited, 0)}
}

// restore says when something happened: at, in this run of the gateway, after it had waited in
// earlier ones. What is from an earlier run has at = the start of this one.
//
// While the machine has not started again, waited is exact whatever the wall clock did. After that
// it is the difference of the wall clocks if both were set and the later one is later, and else
// what was known before: never too long because a clock jumped back, never negative.
func (c clock) restore(s stamp) (at time.Time, waited time.Duration) {
	if s.boot == c.boot {
		since := s.uptime - c.uptime.Truncate(time.Millisecond)
		if since >= 0 {
			return c.opened.Add(since), s.waited
		}
		return c.opened, s.waited - since
	}
	// The wall clock may have been set since the store was opened: ask it now.
	opened := time.Now().UnixNano() - int64(time.Since(c.opened))
	return c.opened, s.waited + wallElapsed(s.wall, opened)
}

// wallElapsed is the time between two readings of the wall clock, or 0 if they cannot be
// compared: one is from before the clock was set, or they are in the wrong order, or more than
// ten years apart.
func wallElapsed(from, to int64) time.Duration {
	unset := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	if from < unset || to < from || to-from > int64(10*365*24*time.Hour) {
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
