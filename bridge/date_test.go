package bridge

import (
	"strings"
	"testing"
	"time"
)

// While the time of day is not known the state has no times; then they are right.
func TestStateDates(t *testing.T) {
	const decades = 50 * 365 * 24 * time.Hour
	known, came := false, time.Now().Add(-time.Hour)
	b := &Bridge{since: time.Now(), state: State{State: Connected}}
	b.config.Backlog = func(lane int) (int, time.Time) { return 1 - min(lane, 1), came }
	b.config.Date = func(at time.Time) (time.Time, bool) { return at.Add(decades), known }
	if s := string(b.State().payload()); strings.Contains(s, "since") || strings.Contains(s, "oldest") {
		t.Errorf("without a clock: %s", s)
	}
	known = true
	s := b.State()
	if s.Since == nil || s.Since.Sub(b.since.Add(decades)).Abs() > time.Millisecond || s.Oldest == nil || s.Oldest.Sub(came.Add(decades)).Abs() > time.Millisecond {
		t.Errorf("with a clock: %s", s.payload())
	}
}
