// Package sensors knows what a measurable or settable quantity is, and how readings become
// topics and commands become actions. It knows no MQTT, no YAML and no hardware: drivers in
// the packages below it bring the readings, and a Publisher takes them.
package sensors

import (
	"context"
	"time"
)

// A Quality tells how far a reading can be trusted.
type Quality byte

// The qualities.
const (
	Good      Quality = iota // measured, in range
	Uncertain                // measured, but its time or its calibration is in doubt
	Bad                      // not measured: the reading's Err says why
)

// A Value is what was measured or is to be set: a float64, a bool or a string.
type Value any

// A Reading is one value of one point at one time.
type Reading struct {
	Point   string // the topic of the point, as configured
	Value   Value  // nil when Quality is Bad
	Unit    string // "°C", "%", "hPa"; empty for switches and counts
	Quality Quality
	Err     error     // why the quality is not Good
	At      time.Time // when it was measured
}

// A Driver brings the readings of one or more points that share a wire.
//
// Run owns the wire until ctx ends: it opens it, hands every reading to emit, opens it again
// after a fault, and leaves it closed. It returns an error only for what no retry can mend.
// emit never blocks.
type Driver interface {
	Run(ctx context.Context, emit func(Reading)) error
}

// An Actuator is one settable quantity.
//
// Write sets it, Read measures what the hardware has now, and neither takes longer than the
// wire's own timeout. MakeSafe sets the configured safe state; it is called at start, at exit,
// and when commands stop coming, and may be called at any time.
type Actuator interface {
	Write(ctx context.Context, v Value) error
	Read(ctx context.Context) (Value, error)
	MakeSafe(ctx context.Context) error
}

// A Publisher takes a message for a topic. A nil error means that it has it now; it does not
// block for the network or the disk.
type Publisher interface {
	Publish(topic string, payload []byte, retain bool) error
}
