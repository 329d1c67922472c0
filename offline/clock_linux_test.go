package offline

import (
	"testing"
	"time"
)

// TestClock: a message never gets younger, nor old at once, because a clock jumped.
func TestClock(t *testing.T) {
	c := newClock(kernelClock{})
	c.boot, c.uptime = 7, time.Hour
	now := c.opened.UnixNano()
	year := int64(365 * 24 * time.Hour)
	for _, tt := range []struct {
		name   string
		s      stamp
		at     time.Duration // after the store was opened
		waited time.Duration
	}{
		{"this run", stamp{now, 7, time.Hour + time.Second, 0}, time.Second, 0},
		{"this run, had waited before", stamp{now, 7, time.Hour, time.Minute}, 0, time.Minute},
		{"run before, same start of the machine", stamp{now, 7, time.Hour - time.Minute, time.Second}, 0, time.Minute + time.Second},
		{"run before, wall clock was set since", stamp{0, 7, time.Hour - time.Minute, 0}, 0, time.Minute},
		{"run before, wall clock was ahead", stamp{now + year, 7, time.Hour - time.Minute, 0}, 0, time.Minute},
		{"start before", stamp{now - int64(24*time.Hour), 6, 20 * time.Hour, time.Second}, 0, 24*time.Hour + time.Second},
		{"start before, clock unset then", stamp{int64(time.Hour), 6, 0, time.Second}, 0, time.Second},
		{"start before, clock ahead then", stamp{now + int64(time.Hour), 6, 0, time.Second}, 0, time.Second},
		{"start before, decades ago", stamp{now - 11*year, 6, 0, 0}, 0, 0},
	} {
		m := c.restore(parseStamp(&parser{b: tt.s.append(nil)}))
		at, waited := m.at, m.waited
		if d := at.Sub(c.opened) - tt.at; d.Abs() > 2*time.Millisecond {
			t.Errorf("%s: at %v", tt.name, at.Sub(c.opened))
		}
		if d := waited - tt.waited; d.Abs() > time.Second/10 || waited < 0 {
			t.Errorf("%s: waited %v, not %v", tt.name, waited, tt.waited)
		}
	}
}

// TestClockStamp: whatever time a message says it was taken, its stamp is within this run.
func TestClockStamp(t *testing.T) {
	c := newClock(kernelClock{})
	for _, at := range []time.Time{{}, time.Unix(0, 0), time.Now().Add(1e6 * time.Hour)} {
		s := c.stamp(at, -time.Second)
		if s.uptime < c.uptime || s.uptime > c.uptime+time.Minute || s.waited != 0 {
			t.Errorf("%v: %+v", at, s)
		}
	}
}
