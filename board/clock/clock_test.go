package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

const year = 365 * 24 * time.Hour

// A machine has a kernel whose clock can be set, and time that passes.
type machine struct {
	t     *testing.T
	clock *Clock
	now   reading
	right time.Time // what the clock should say
}

// newMachine is switched on at a time, and wakes up with another on its clock.
func newMachine(t *testing.T, right, says time.Time, floors ...time.Time) *machine {
	m := &machine{t: t, now: reading{wall: says, uptime: 20 * time.Second}, right: right}
	m.clock = newClock(func() reading { return m.now }, floors...)
	return m
}

func (m *machine) pass(d time.Duration) {
	m.now.wall, m.now.uptime, m.right = m.now.wall.Add(d), m.now.uptime+d, m.right.Add(d)
}

// want checks what the clock says of the present moment: the day, and whether it is known.
func (m *machine) want(when string, day time.Time, known bool) {
	m.t.Helper()
	got, ok := m.clock.Date(time.Now())
	if off := got.Sub(day).Abs(); off > time.Second || ok != known {
		m.t.Errorf("%s: the clock says %v, known %t; want %v, %t", when, got, ok, day, known)
	}
}

var (
	today = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	epoch = time.Unix(20, 0)
)

// A board without a battery wakes up in 1970. Until its clock is set the time is not before
// what the gateway has seen, and goes on from there; what was then dated is dated right later.
func TestEpoch(t *testing.T) {
	seen := today.Add(-3 * time.Hour)
	m := newMachine(t, today, epoch, seen)
	m.want("at the start", seen, false)
	if now := m.clock.Now(); now.Before(seen) {
		t.Errorf("certificates are judged by %v, before the floor", now)
	}
	moment := time.Now()
	m.pass(time.Minute)
	m.want("a minute later", seen.Add(time.Minute), false)
	m.now.wall = m.right
	m.want("when it is set", m.right, true)
	// The test's own clock goes on by a little only; the machine's minute has passed for the kernel.
	if day, known := m.clock.Date(moment); !known || day.After(m.right) {
		t.Errorf("the earlier moment is dated %v, known %t", day, known)
	}
}

// Steps of ten years, either way, are not believed unless a time server makes them, or they last.
func TestSteps(t *testing.T) {
	for _, step := range []time.Duration{10 * year, -10 * year} {
		m := newMachine(t, today, today)
		m.want("at the start", today, true)
		m.now.wall = m.now.wall.Add(step)
		m.want("after the step", m.right, true)
		m.pass(probation - time.Hour)
		m.want("for a day", m.right, true)
		m.now.wall = m.right
		m.want("when it is right again", m.right, true)

		m.now.wall = m.now.wall.Add(step)
		m.now.kept = true
		m.want("when a time server says so", m.right.Add(step), true)
	}
}

func TestLastingStep(t *testing.T) {
	m := newMachine(t, today, today)
	m.now.wall = m.now.wall.Add(2 * year)
	m.want("after the step", m.right, true)
	m.pass(probation)
	m.want("a day later", m.right.Add(2*year), true)
	m.now.wall = epoch
	m.want("after a step before the floor", m.right.Add(2*year), true)
	m.pass(2 * probation)
	m.want("days later", m.right.Add(2*year), true)
}

// A time server, or a person, corrects by seconds and hours: that is believed at once.
func TestCorrection(t *testing.T) {
	m := newMachine(t, today, today.Add(-2*time.Hour))
	m.now.wall = m.right
	m.want("after the correction", m.right, true)
	m.now.wall = m.now.wall.Add(-time.Minute)
	m.want("after another", m.right.Add(-time.Minute), true)
}

// A certificate that begins in the future says that the clock was never right.
func TestRaise(t *testing.T) {
	m := newMachine(t, today, today.Add(-2*year))
	m.want("at the start", today.Add(-2*year), true)
	begins := today.Add(-24 * time.Hour)
	m.clock.Raise(begins)
	m.want("with the certificate", begins, false)
	if now := m.clock.Now(); now.Before(begins) {
		t.Errorf("the certificate is judged by %v, before it begins", now)
	}
	m.now.wall = today
	m.want("when the clock is set", today, true)
	m.clock.Raise(today.Add(slack / 2))
	m.want("a little behind the floor", today, true)
	if now := m.clock.Now(); now.Before(today.Add(slack / 2)) {
		t.Errorf("a certificate that has just begun is judged by %v", now)
	}
}

// A board without a battery goes on from where it stopped. It does not know for how long it was off
// until a time server tells.
func TestSought(t *testing.T) {
	stopped := today.Add(-3 * time.Hour)
	m := &machine{t: t, now: reading{wall: stopped, uptime: 20 * time.Second, sought: true}, right: today}
	m.clock = newClock(func() reading { return m.now }, stopped.Add(-5*time.Minute))
	m.want("at the start", stopped, false)
	m.pass(time.Hour)
	m.want("an hour later", stopped.Add(time.Hour), false)
	m.now.wall, m.now.kept, m.now.sought = m.right, true, false
	m.want("with a time server", m.right, true)
	m.now.kept, m.now.sought = false, true
	m.want("when the time server is lost again", m.right, true)
}

// The kernel is asked rarely, and time passes all the same.
func TestRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, begin := 0, time.Now()
		r := rarely(func() reading {
			asked++
			return reading{wall: time.Now(), uptime: time.Since(begin)}
		})
		for range 100 {
			now := r()
			if now.uptime != time.Since(begin) || !now.wall.Equal(time.Now()) {
				t.Fatalf("after %v: %+v", time.Since(begin), now)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if asked != 10 {
			t.Errorf("asked %d times in a second", asked)
		}
	})
}

// What a time server says goes, floor or not: a floor may come from a time that was wrong.
func TestTimeServer(t *testing.T) {
	m := newMachine(t, today, today, today.Add(10*year))
	m.want("with a floor in the future", today.Add(10*year), false)
	m.now.kept = true
	m.want("with a time server", today, true)
	if now := m.clock.Now(); now.After(today.Add(time.Hour)) {
		t.Errorf("certificates are judged by %v", now)
	}
}

// A floor from a time that was wrong does not stay for ever where there is no time server.
func TestWrongFloor(t *testing.T) {
	m := newMachine(t, today, today, today.Add(10*year))
	m.want("at the start", today.Add(10*year), false)
	m.pass(probation)
	m.want("a day later", m.right, true)
	if now := m.clock.Now(); now.After(m.right.Add(time.Minute)) {
		t.Errorf("certificates are judged by %v", now)
	}
}

// A process that starts after a step does not believe it more than the one before.
func TestResume(t *testing.T) {
	for _, step := range []time.Duration{10 * year, -year} {
		m := newMachine(t, today, today.Add(step), today.Add(-time.Hour))
		m.clock.Resume(time.Now(), today)
		m.want("after the step", today, true)
		m.pass(time.Hour)
		m.want("an hour later", m.right, true)
		m.pass(probation)
		m.want("a day later", m.right.Add(step), true)
	}
	m := newMachine(t, today, today)
	m.now.kept = true
	m.clock.Resume(time.Now(), today.Add(year))
	m.want("with a time server", today, true)
}

// The clock of this machine answers.
func TestKernel(t *testing.T) {
	c := New()
	day, _ := c.Date(time.Now())
	if off := time.Since(day).Abs(); off > time.Minute {
		t.Errorf("the clock says %v, this machine %v", day, time.Now())
	}
}
