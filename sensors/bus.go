package sensors

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// A bus is the outputs that share a wire, and the goroutine that serves them.
type bus struct {
	desk    *Desk
	outputs []*output
	wake    chan struct{} // at most one token: look again. A full channel says so already
	idle    chan struct{} // closed when the goroutine has ended
	late    bool          // the end did not wait for the goroutine; the desk's lock guards it
}

func (b *bus) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// serve is the goroutine of one bus.
func (b *bus) serve(ctx context.Context) {
	defer b.leave()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		act, wait := b.next()
		if act != nil {
			act(ctx)
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-b.wake:
		case <-timer.C:
		}
	}
}

// finish waits for the goroutine of a bus, but not for ever: other outputs have to become safe.
func (b *bus) finish() {
	select {
	case <-b.idle:
		return
	case <-time.After(finishTime):
	}
	b.desk.mu.Lock()
	defer b.desk.mu.Unlock()
	select {
	case <-b.idle:
	default:
		b.late = true
	}
}

// leave ends the goroutine of a bus. If nobody waited for its last call, that call may have come
// after the outputs were driven safe, so it is done again.
func (b *bus) leave() {
	b.desk.mu.Lock()
	late := b.late
	close(b.idle)
	b.desk.mu.Unlock()
	if !late {
		return
	}
	for _, o := range b.outputs {
		b.desk.mu.Lock()
		o.mustBeSafe("its wire answered only after the end", time.Now())
		b.desk.mu.Unlock()
		b.desk.safe(context.Background(), o)
	}
}

// next chooses what the bus does now: safety first, then the oldest command, then reading back.
// If there is nothing, wait says for how long.
func (b *bus) next() (act func(context.Context), wait time.Duration) {
	d, now := b.desk, time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	var command, read *output
	wait = time.Hour
	for _, o := range b.outputs {
		o.check(now)
		if o.unsafe != "" && !o.retry.After(now) {
			return func(ctx context.Context) { d.safe(ctx, o) }, 0
		}
		if o.pending != nil && (command == nil || o.pending.turn < command.pending.turn) {
			command = o
		}
		if !o.readDue.After(now) && (read == nil || o.readDue.Before(read.readDue)) {
			read = o
		}
		wait = min(wait, o.nextCheck().Sub(now))
	}
	switch {
	case command != nil:
		r := command.pending
		command.pending = nil
		return func(ctx context.Context) { d.run(ctx, command, r) }, 0
	case read != nil:
		return func(ctx context.Context) { d.readBack(ctx, read) }, 0
	}
	return nil, max(wait, 0)
}

// run carries out a command: last checks, write, read back, state, result.
func (d *Desk) run(ctx context.Context, o *output, r *request) {
	if !d.permit(o, r) {
		return
	}
	err := o.write(ctx, r.value)
	v, readErr := o.read(ctx)

	now := time.Now()
	d.mu.Lock()
	o.learn(v, readErr, now)
	outcome, why := o.judge(r, err, readErr)
	o.hold(r, outcome, now)
	d.takeCare(o, now, err, readErr)
	reports := []report{o.stateReport(now), d.settle(o, r, outcome, why)}
	d.mu.Unlock()
	d.publish(reports...)
}

// permit is the last check, when the command's turn has come.
func (d *Desk) permit(o *output, r *request) bool {
	now := time.Now()
	d.mu.Lock()
	outcome, err := Refused, o.dwells(r.value, now)
	if age := r.ageAt(now); age > o.MaxAge {
		outcome, err = Expired, tooOld(age, o.MaxAge)
	}
	if err == nil {
		d.mu.Unlock()
		return true
	}
	refusal := d.settle(o, r, outcome, err)
	d.mu.Unlock()
	d.publish(refusal)
	return false
}

// judge says what became of a command, from the errors of writing and reading back.
func (o *output) judge(r *request, writeErr, readErr error) (Outcome, error) {
	switch {
	case writeErr != nil:
		return Failed, writeErr
	case errors.Is(readErr, ErrNotMeasured):
		return Done, fmt.Errorf("written; %w", readErr)
	case o.fault != nil:
		return Failed, fmt.Errorf("written, but not read back: %w", o.fault)
	case !same(o.measured, r.value, o.Tolerance):
		return Failed, fmt.Errorf("written, but it measures %s", o.Words.Format(o.measured))
	}
	return Done, nil
}

// takeCare has an output driven safe whose driver has panicked. The caller has the lock.
func (d *Desk) takeCare(o *output, now time.Time, errs ...error) {
	var p *panicError
	if errors.As(errors.Join(errs...), &p) {
		d.log.Error("output: please report this", "point", o.Point, "err", p, "stack", string(p.stack))
		o.mustBeSafe(p.Error(), now)
	}
}

// readBack measures an output and publishes what has changed since: by hand, or by a fault.
func (d *Desk) readBack(ctx context.Context, o *output) {
	v, err := o.read(ctx)

	now := time.Now()
	d.mu.Lock()
	was := o.fault
	changed := o.learn(v, err, now)
	fault := o.fault
	var reports []report
	if changed {
		d.takeCare(o, now, err)
		reports = append(reports, o.stateReport(now))
	}
	d.mu.Unlock()
	switch {
	case changed && fault != nil && !errors.Is(fault, ErrNotMeasured):
		d.log.Warn("output cannot be read", "point", o.Point, "err", fault)
	case was != nil && fault == nil:
		d.log.Info("output can be read again", "point", o.Point)
	}
	d.publish(reports...)
}

// safe drives one output safe, and tells of it unless it was so already. Failing to is told
// once and tried again.
func (d *Desk) safe(ctx context.Context, o *output) {
	err := o.makeSafe(ctx)
	v, readErr := o.read(ctx)

	now := time.Now()
	d.mu.Lock()
	why, was, failing := o.unsafe, o.measured, o.failing
	var reports []report
	if o.learn(v, readErr, now) {
		reports = append(reports, o.stateReport(now))
	}
	if err != nil {
		o.failing, o.retry = true, now.Add(safeRetry)
		if !failing {
			reports = append(reports, o.resultReport(o.holder, Failed, fmt.Sprintf("cannot be driven safe (%s): %v", why, err), nil))
		}
	} else {
		moved := was == nil || o.measured == nil || !same(was, o.measured, o.Tolerance)
		if why != atStart && moved {
			d.stats.Safed++
			reports = append(reports, o.resultReport(o.holder, Expired, "driven safe: "+why, nil))
		}
		o.isSafe()
	}
	d.mu.Unlock()
	switch {
	case err != nil && !failing:
		d.log.Error("output cannot be driven safe; trying again", "point", o.Point, "why", why, "err", err)
	case err == nil && (failing || why != atStart):
		d.log.Warn("output driven safe", "point", o.Point, "why", why)
	}
	d.publish(reports...)
}

// allSafe drives all outputs safe side by side, each after before(its bus), and reads them back.
// After safeTime it returns, whoever has not answered: a call that heeds no context is left
// behind, since a stuck wire must not keep the others from becoming safe, nor the gateway from
// ending.
func (d *Desk) allSafe(ctx context.Context, before func(*bus)) error {
	ctx, cancel := context.WithTimeout(ctx, safeTime)
	defer cancel()
	type answer struct {
		out          *output
		err, readErr error
		value        Value
	}
	answers := make(chan answer, len(d.outputs)) // room for all: a late one has no reader
	for _, b := range d.buses {
		go func() {
			before(b)
			for _, o := range b.outputs {
				go func() {
					a := answer{out: o, err: o.makeSafe(ctx)}
					a.value, a.readErr = o.read(ctx)
					answers <- a
				}()
			}
		}()
	}

	var errs []error
	missing := maps.Clone(d.outputs)
	for len(missing) > 0 {
		select {
		case a := <-answers:
			delete(missing, a.out.Point)
			d.mu.Lock()
			a.out.learn(a.value, a.readErr, time.Now())
			if a.err == nil {
				a.out.isSafe()
			}
			d.mu.Unlock()
			if a.err != nil {
				errs = append(errs, fmt.Errorf("output %s: cannot be driven safe: %w", a.out.Point, a.err))
			}
		case <-ctx.Done():
			d.mu.Lock()
			for _, o := range missing {
				err := fmt.Errorf("output %s: cannot be driven safe: no answer within %s", o.Point, safeTime)
				o.learn(nil, err, time.Now())
				errs = append(errs, err)
			}
			d.mu.Unlock()
			return errors.Join(errs...)
		}
	}
	return errors.Join(errs...)
}
