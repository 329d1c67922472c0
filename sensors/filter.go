package sensors

import (
	"fmt"
	"strconv"
	"time"
)

// A Calibration corrects a measured number: scale it, then add the offset.
type Calibration struct {
	Scale  float64 // 0 stands for 1
	Offset float64 // in the unit of the point
}

// Apply returns the corrected number, rounded to twelve significant digits, so that 21.5 × 1.1
// reads 23.65 and not 23.650000000000002.
func (c Calibration) Apply(v float64) float64 {
	if c == (Calibration{}) {
		return v
	}
	scale := c.Scale
	if scale == 0 {
		scale = 1
	}
	// What FormatFloat writes, ParseFloat reads.
	f, _ := strconv.ParseFloat(strconv.FormatFloat(v*scale+c.Offset, 'g', 12, 64), 64)
	return f
}

// A Range is the interval of numbers that are believed or allowed; both ends belong to it, and
// may be infinite.
type Range struct{ Min, Max float64 }

// A RangeError tells of a number outside its range.
type RangeError struct {
	Value float64
	Range Range
	Unit  string
}

func (e *RangeError) Error() string {
	unit := e.Unit
	if unit != "" {
		unit = " " + unit
	}
	if e.Value < e.Range.Min {
		return fmt.Sprintf("%v%s is below %v%s", e.Value, unit, e.Range.Min, unit)
	}
	return fmt.Sprintf("%v%s is above %v%s", e.Value, unit, e.Range.Max, unit)
}

// check returns a *RangeError when v is outside.
func (r *Range) check(v Value, unit string) error {
	f, ok := v.(float64)
	if !ok || r == nil || f >= r.Min && f <= r.Max {
		return nil
	}
	return &RangeError{Value: f, Range: *r, Unit: unit}
}

// A Filter says which readings of a point are passed on, and as what. The zero Filter passes
// every reading as it is, except that a fault is told once and not at every poll.
type Filter struct {
	Calibration Calibration

	// Range: a number outside, after calibration, becomes a bad reading. nil: any.
	Range *Range

	// Deadband holds back a number that differs by less than this from the last one passed on,
	// and switches and texts that have not changed. 0: none.
	Deadband float64

	// Heartbeat passes a reading on in spite of the deadband when the last one is this long ago.
	// With a heartbeat alone, only what has not changed at all is held back. It needs a reading:
	// a point that is silent stays silent. 0: none.
	Heartbeat time.Duration

	// MinInterval is the least time between two messages of the point, whatever happens. The
	// newest reading held back meanwhile follows at its end, so that what is retained is always
	// the last state; the end of the Feed does not wait for it. 0: none.
	MinInterval time.Duration
}

// apply calibrates and judges a reading.
func (f *Filter) apply(r Reading) Reading {
	if r.Quality == Bad {
		r.Value = nil
		return r
	}
	if v, ok := r.Value.(float64); ok {
		r.Value = f.Calibration.Apply(v)
	}
	err := sound(r.Value)
	if err == nil {
		err = f.Range.check(r.Value, r.Unit)
	}
	if err != nil {
		return bad(r.Point, r.Unit, err, r.At)
	}
	return r
}

// repeats reports whether next says nothing new after last, which was passed on some time ago.
func (f *Filter) repeats(last, next Reading, ago time.Duration) bool {
	if last.Quality != next.Quality || f.Heartbeat > 0 && ago >= f.Heartbeat {
		return false
	}
	if next.Quality == Bad {
		return sameFault(last.Err, next.Err)
	}
	if f.Deadband <= 0 && f.Heartbeat <= 0 {
		return false
	}
	x, okX := last.Value.(float64)
	y, okY := next.Value.(float64)
	if okX && okY && f.Deadband > 0 {
		return y > x-f.Deadband && y < x+f.Deadband
	}
	return last.Value == next.Value
}

// sameFault reports whether two errors tell of one fault: a value out of range is out of range
// wherever it wanders.
func sameFault(a, b error) bool {
	if _, ok := a.(*RangeError); ok {
		_, ok = b.(*RangeError)
		return ok
	}
	return errText(a) == errText(b)
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
