package broker

import (
	"math"
	"testing"
	"time"
)

// A counter that grows evenly has the same load over every span in the end, and none an hour after
// it stood still.
func TestLoads(t *testing.T) {
	var l load
	total := int64(0)
	l.take(total, statsPeriod)
	for step, tt := range []struct {
		grows int64 // in a period
		after time.Duration
		want  [3]float64 // in a minute
	}{
		{10, time.Minute, [3]float64{60 * (1 - 1/math.E), 60 * (1 - math.Exp(-1.0/5)), 60 * (1 - math.Exp(-1.0/15))}},
		{10, 3 * time.Hour, [3]float64{60, 60, 60}},
		{0, 3 * time.Hour, [3]float64{0, 0, 0}},
	} {
		for range tt.after / statsPeriod {
			total += tt.grows
			l.take(total, statsPeriod)
		}
		for i, got := range l.averages {
			if math.Abs(got-tt.want[i]) > 0.01 {
				t.Errorf("step %d: the load over %s is %.2f, want %.2f", step, spans[i].name, got, tt.want[i])
			}
		}
	}
}
