package sensors

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrNotMeasured is what Actuator.Read returns when nothing measures the output: its state is
// unknown, and no command to it can be more than written.
var ErrNotMeasured = errors.New("nothing measures this output")

// Defaults of an Output.
const (
	DefaultMaxAge  = 30 * time.Second
	DefaultRefresh = 10 * time.Second
)

// An Output is one settable quantity and the rules for it. Commands come for Point; the measured
// state goes, retained, to Point + "/state", the outcome of each command to Point + "/result".
type Output struct {
	Point    string
	Actuator Actuator

	// Bus names the wire. Outputs of one bus are served in turn; buses never wait for each
	// other. Empty: a wire of its own.
	Bus string

	Kind   Kind
	Words  Words // of a switch
	Unit   string
	Format Format // of the state

	Range     *Range  // allowed numbers; nil: any
	Tolerance float64 // how far a measured number may be from the requested one

	MaxAge time.Duration // an older command is expired; 0: DefaultMaxAge

	// MinOn and MinOff are how long a switch stays on or off at least. A command against them is
	// refused; safety does not ask them. At start the output counts as just switched, since
	// nobody knows for how long the power was gone.
	MinOn, MinOff time.Duration

	// Lease is how long a command holds: without another one in that time the output is driven
	// safe. 0: for ever.
	Lease time.Duration

	// When Link has been down for LinkLoss, the output is driven safe, once. Link "": never.
	Link     string
	LinkLoss time.Duration

	Refresh time.Duration // between two read-backs; 0: DefaultRefresh
}

// output is an Output and what is known of it. The desk's lock guards all of it; only the
// goroutine of its bus acts on the actuator while the desk runs.
type output struct {
	Output
	bus     *bus
	pending *request // the newest command that waits

	unsafe   string    // why it must be driven safe; "": it need not
	retry    time.Time // no new attempt before
	failing  bool      // the last attempt failed
	leaseEnd time.Time // zero: no lease runs
	linkDue  time.Time // zero: the link is up, unknown, or has been acted on
	readDue  time.Time
	linkDown bool
	holder   string // id of the command that holds now

	measured  Value // nil: not known
	since     time.Time
	safe      Value // what was measured after it was driven safe; nil: not known
	fault     error // why the state is not known
	published bool  // measured or fault has been published
}

// setDefaults fills in what the configuration left out.
func (o *Output) setDefaults() {
	if o.MaxAge <= 0 {
		o.MaxAge = DefaultMaxAge
	}
	if o.Refresh <= 0 {
		o.Refresh = DefaultRefresh
	}
	if o.Bus == "" {
		o.Bus = "\x00" + o.Point // no configured name begins so
	}
}

// check marks the output unsafe when a lease or a link has run out.
func (o *output) check(now time.Time) {
	if !o.leaseEnd.IsZero() && !o.leaseEnd.After(now) {
		o.leaseEnd = time.Time{}
		o.mustBeSafe(fmt.Sprintf("no command for %s", o.Lease), now)
	}
	if !o.linkDue.IsZero() && !o.linkDue.After(now) {
		o.linkDue = time.Time{}
		o.mustBeSafe(fmt.Sprintf("%s has been down for %s", o.Link, o.LinkLoss), now)
	}
}

// atStart is why every output must first of all be driven safe.
const atStart = "start"

func (o *output) mustBeSafe(why string, now time.Time) {
	o.unsafe, o.retry = why, now
}

// isSafe records that it has been driven safe and measured.
func (o *output) isSafe() {
	o.unsafe, o.failing, o.leaseEnd, o.holder = "", false, time.Time{}, ""
	o.safe = o.measured
}

// nextCheck returns when something is to be done without a command.
func (o *output) nextCheck() time.Time {
	next := o.readDue
	for _, t := range []time.Time{o.leaseEnd, o.linkDue} {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	if o.unsafe != "" && o.retry.Before(next) {
		next = o.retry
	}
	return next
}

// dwells returns why the output must stay as it is for now.
func (o *output) dwells(want Value, now time.Time) error {
	is, okIs := o.measured.(bool)
	on, okOn := want.(bool)
	if !okIs || !okOn || is == on {
		return nil
	}
	least := o.MinOff
	if is {
		least = o.MinOn
	}
	if left := least - now.Sub(o.since); left > 0 {
		return fmt.Errorf("it stays %s for at least %s; try again in %s", o.Words.Word(is), least, left.Round(time.Second))
	}
	return nil
}

// learn records a measurement and reports whether it changes what is known.
func (o *output) learn(v Value, err error, now time.Time) (changed bool) {
	o.readDue = now.Add(o.Refresh)
	if err == nil {
		err = sound(v)
	}
	if err != nil {
		changed = o.fault == nil || !o.published
		o.fault, o.measured = err, nil
		return changed
	}
	changed = o.fault != nil || !o.published || !same(v, o.measured, 0)
	if !same(v, o.measured, o.Tolerance) {
		o.since = now
	}
	o.fault, o.measured = nil, v
	return changed
}

// hold starts or ends the lease after a command was tried. A command that failed does not renew
// the lease of one that holds.
func (o *output) hold(r *request, outcome Outcome, now time.Time) {
	switch {
	case o.measured != nil && o.safe != nil && same(o.measured, o.safe, o.Tolerance):
		o.leaseEnd = time.Time{}
	case o.Lease > 0 && (outcome == Done || o.leaseEnd.IsZero()):
		o.leaseEnd = now.Add(o.Lease)
	}
	if outcome == Done {
		o.holder, o.unsafe = r.id, ""
	}
}

// state is the reading to publish for what is known.
func (o *output) state(now time.Time) Reading {
	if o.fault != nil {
		return bad(o.Point, o.Unit, o.fault, now)
	}
	return Reading{Point: o.Point, Value: o.measured, Unit: o.Unit, At: now}
}

// The three calls to an actuator, with a bound in time for those that heed it, and a panic as
// an error.

func (o *output) write(ctx context.Context, v Value) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return guard(func() error { return o.Actuator.Write(ctx, v) })
}

func (o *output) read(ctx context.Context) (v Value, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = guard(func() (err error) { v, err = o.Actuator.Read(ctx); return err })
	return v, err
}

func (o *output) makeSafe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return guard(func() error { return o.Actuator.MakeSafe(ctx) })
}
