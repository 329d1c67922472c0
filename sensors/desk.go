package sensors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Times of the desk.
const (
	callTimeout = 5 * time.Second        // of one call to an actuator that heeds its context
	safeRetry   = time.Second            // between attempts to drive an output safe
	safeTime    = time.Second            // to drive all outputs safe, at start and at the end
	finishTime  = 300 * time.Millisecond // of it, for a call that is under way at the end
)

// DeskStats counts commands. At every instant Commands = Done + Expired + Refused + Failed +
// Superseded + Waiting.
type DeskStats struct {
	Commands, Done, Expired, Refused, Failed, Superseded int64

	Waiting int64 // for their turn, the ones being written included
	Unknown int64 // commands for no output: dropped
	Safed   int64 // times an output was driven safe by a lease, a lost link or a faulty driver
}

// A Desk runs commands on actuators, and answers for their safety.
//
// A command that is retained, too old, out of range or against a dwell time never reaches the
// actuator. What is published as state is always what was measured, never what was asked for.
type Desk struct {
	// Calendar dates the states. It is set before Run; nil: the machine's clock is right.
	Calendar Calendar

	log     *slog.Logger
	outputs map[string]*output
	buses   []*bus

	mu      sync.Mutex // guards what follows and every output; never held during a call or a publish
	pub     Publisher
	running bool
	refused bool // the publisher's last answer was an error
	turn    uint64
	stats   DeskStats
}

// NewDesk returns a desk for outputs; their points must differ. Nothing is touched yet: call
// MakeSafe before anything else, then Run.
func NewDesk(log *slog.Logger, outputs ...Output) (*Desk, error) {
	d := &Desk{log: log, outputs: make(map[string]*output, len(outputs))}
	buses := make(map[string]*bus)
	for _, cfg := range outputs {
		if d.outputs[cfg.Point] != nil {
			return nil, fmt.Errorf("desk: two outputs have the point %q", cfg.Point)
		}
		o := &output{Output: cfg, unsafe: atStart}
		o.setDefaults()
		b := buses[o.Bus]
		if b == nil {
			b = &bus{desk: d, wake: make(chan struct{}, 1), idle: make(chan struct{})}
			buses[o.Bus] = b
			d.buses = append(d.buses, b)
		}
		o.bus = b
		b.outputs = append(b.outputs, o)
		d.outputs[o.Point] = o
	}
	return d, nil
}

// MakeSafe drives all outputs safe, side by side, and reads them back. It takes a second at
// most; what did not answer by then is in the error, and Run tries it again until it does.
func (d *Desk) MakeSafe(ctx context.Context) error {
	return d.allSafe(ctx, func(*bus) {})
}

// Run publishes the states, runs commands, keeps leases and reads back until ctx ends; then it
// drives all outputs safe, as MakeSafe does, and publishes what it measured. The publisher has
// to outlive it. A Desk runs once.
func (d *Desk) Run(ctx context.Context, p Publisher) error {
	d.mu.Lock()
	d.pub, d.running = p, true
	for _, o := range d.outputs {
		o.readDue = time.Time{} // now: the first state is a fresh one
	}
	d.mu.Unlock()
	for _, b := range d.buses {
		go b.serve(ctx)
	}
	<-ctx.Done()

	d.mu.Lock()
	d.running = false
	var dropped []report
	for _, o := range d.outputs {
		if r := o.pending; r != nil {
			o.pending = nil
			dropped = append(dropped, d.settle(o, r, Refused, errStopping))
		}
	}
	d.mu.Unlock()
	d.publish(dropped...)

	err := d.allSafe(context.WithoutCancel(ctx), (*bus).finish)
	var states []report
	d.mu.Lock()
	for _, o := range d.outputs {
		states = append(states, o.stateReport(time.Now()))
	}
	d.mu.Unlock()
	d.publish(states...)
	return err
}

var errStopping = errors.New("the gateway is stopping")

// Handle takes a command. It never blocks for hardware. Before and after Run a command is
// refused.
func (d *Desk) Handle(c Command) {
	now := time.Now()
	o := d.outputs[c.Point]
	if o == nil {
		d.mu.Lock()
		d.stats.Unknown++
		d.mu.Unlock()
		return
	}
	r, err := parseCommand(c, &o.Output, now, d.Calendar)
	outcome := Refused
	switch {
	case c.Retained:
		err = errors.New("a retained command is an old command: publish without retain")
	case err == nil && r.age > o.MaxAge:
		outcome, err = Expired, tooOld(r.age, o.MaxAge)
	}

	var reports []report
	d.mu.Lock()
	d.stats.Commands++
	d.stats.Waiting++
	if err == nil && !d.running {
		err = errStopping
	}
	if err != nil {
		reports = append(reports, d.settle(o, r, outcome, err))
	} else {
		if old := o.pending; old != nil {
			reports = append(reports, d.settle(o, old, Superseded, errors.New("a newer command came before its turn")))
		}
		d.turn++
		r.turn = d.turn
		o.pending = r
	}
	d.mu.Unlock()
	d.publish(reports...)
	o.bus.poke()
}

func tooOld(age, most time.Duration) error {
	return fmt.Errorf("it is %s old; at most %s is allowed", age.Round(time.Second), most)
}

// Link tells the desk that a link went up or down. Outputs that depend on it are driven safe
// when it stays down for their LinkLoss.
func (d *Desk) Link(name string, up bool) {
	now := time.Now()
	d.mu.Lock()
	for _, o := range d.outputs {
		if o.Link == "" || o.Link != name || o.linkDown == !up {
			continue
		}
		o.linkDown, o.linkDue = !up, time.Time{}
		if !up {
			o.linkDue = now.Add(o.LinkLoss)
		}
	}
	d.mu.Unlock()
	for _, b := range d.buses {
		b.poke()
	}
}

// Stats returns the counters.
func (d *Desk) Stats() DeskStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

// A report is a message of the desk.
type report struct {
	topic   string
	payload []byte
	state   *output // whose state it is; nil: a result
}

// stateReport tells what is known of the output. The caller has the lock.
func (o *output) stateReport(now time.Time) report {
	o.published = true
	return report{o.Point + "/state", payload(o.state(now), o.Format, o.Words, o.bus.desk.Calendar), o}
}

// resultReport tells the outcome of a command. The caller has the lock.
func (o *output) resultReport(id string, outcome Outcome, reason string, requested Value) report {
	return report{topic: o.Point + "/result", payload: encode(jsonResult{
		ID:        id,
		Result:    outcome,
		Reason:    reason,
		Requested: jsonValue(requested, o.Words),
		Measured:  jsonValue(o.measured, o.Words),
	})}
}

// settle counts the end of a command and returns its result. The caller has the lock.
func (d *Desk) settle(o *output, r *request, outcome Outcome, why error) report {
	d.stats.Waiting--
	switch outcome {
	case Done:
		d.stats.Done++
	case Expired:
		d.stats.Expired++
	case Refused:
		d.stats.Refused++
	case Failed:
		d.stats.Failed++
	case Superseded:
		d.stats.Superseded++
	}
	return o.resultReport(r.id, outcome, errText(why), r.value)
}

// publish sends reports, states retained. A state that is not taken is sent again with the next
// read-back.
func (d *Desk) publish(reports ...report) {
	for _, r := range reports {
		d.mu.Lock()
		pub := d.pub
		d.mu.Unlock()
		if pub == nil {
			return
		}
		err := pub.Publish(r.topic, r.payload, r.state != nil)
		d.mu.Lock()
		changed := d.refused != (err != nil)
		d.refused = err != nil
		if err != nil && r.state != nil {
			r.state.published = false
		}
		d.mu.Unlock()
		switch {
		case changed && err != nil:
			d.log.Warn("states and results are not taken; states are sent again", "topic", r.topic, "err", err)
		case changed:
			d.log.Info("states and results are taken again")
		}
	}
}
