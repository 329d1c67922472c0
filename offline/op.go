package offline

import (
	"fmt"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// An op is a change on its way to the file.
type op interface {
	// place gives it its numbers, in the order of submission.
	place(r *register)
	// apply writes it, in the order of submission, as part of a transaction.
	apply(t *txn) error
}

// A register knows the durable sessions as they are after everything that was submitted.
type register struct {
	sessions    map[string]*entry
	lastSession uint64
	lastBody    uint64

	early  map[place]early // what waits for the committer and may become void
	voided []*unit         // one for each op that became void
	unit   *unit           // whose ops are being placed
}

// An early is a message that may be sent before it is written.
type early struct {
	unit   *unit
	op     *enqueueOp
	target *target
}

// A place is one position in one queue.
type place struct{ session, position uint64 }

type entry struct {
	number uint64
	next   uint64 // the next position in its queue
}

// number returns the number of a session, 0 if there is none.
func (r *register) number(client string) uint64 {
	if e := r.sessions[client]; e != nil {
		return e.number
	}
	return 0
}

// encode makes ops of changes. It does all the work that needs no lock.
func (c *clock) encode(changes []session.Change) (ops []op, grows int64, err error) {
	ops = make([]op, 0, len(changes))
	for _, change := range changes {
		var o op
		switch change := change.(type) {
		case *session.Enqueued:
			e, failed := c.encodeEnqueued(change)
			o, err = e, failed
			grows += e.grows()
		case *session.Retained:
			r, failed := c.encodeRetained(change.Message)
			o, err = r, failed
			grows += int64(len(r.record))
		case *session.Opened:
			o = &openOp{change: change, record: sessionRecord{
				client: change.Client, version: change.Version, expiry: change.Expiry, owner: change.Owner, will: change.Will,
			}}
		case *session.Closed:
			o = &closeOp{client: change.Client, at: c.stamp(change.At, 0), sent: change.Sent, shares: change.Shares}
		case *session.Removed:
			o = &removeOp{client: change.Client}
		case *session.Subscribed:
			o = &keyOp{client: change.Client, bucket: bucketSubscriptions, name: change.Subscription.Filter,
				record: subscriptionRecord(change.Subscription, change.ID)}
		case *session.Unsubscribed:
			o = &keyOp{client: change.Client, bucket: bucketSubscriptions, name: change.Filter}
		case *session.Received:
			o = &keyOp{client: change.Client, bucket: bucketReceived, id: change.ID, record: seal(unsealed(0))}
		case *session.Released:
			o = &keyOp{client: change.Client, bucket: bucketReceived, id: change.ID}
		case *session.Trimmed:
			change.To.Held = false
			o = &trimOp{change: change, to: newTarget(change.To)}
		case *session.Dropped:
			o = &dropOp{change: change, since: c.stamp(change.Since, 0), until: c.stamp(change.Until, 0)}
		case *session.Advanced:
			o = &advanceOp{client: change.Client, position: change.Position, stage: change.Stage}
		default:
			err = fmt.Errorf("a %T cannot be stored", change)
		}
		if err != nil {
			return nil, 0, err
		}
		ops = append(ops, o)
	}
	return ops, grows, nil
}

// settle tells that what is in a unit will be written, unless it is void already.
func (r *register) settle(u *unit) {
	if len(r.early) == 0 {
		return
	}
	for _, o := range u.ops {
		if o, ok := o.(*enqueueOp); ok {
			for i := range o.targets {
				delete(r.early, place{o.targets[i].number, o.targets[i].position})
			}
		}
	}
}

// An openOp is an Opened.
type openOp struct {
	change *session.Opened // nil once it has its Incarnation
	record sessionRecord
}

func (o *openOp) place(r *register) {
	e := r.sessions[o.record.client]
	if e == nil {
		r.lastSession++
		e = &entry{number: r.lastSession, next: 1}
		r.sessions[o.record.client] = e
	}
	o.record.number = e.number
	o.change.Incarnation = e.number
	o.change = nil
}

func (o *openOp) apply(t *txn) error {
	if old := t.sessionRecord(o.record.client); old != nil && old.number != o.record.number {
		if err := t.discard(old.number); err != nil {
			return err
		}
	}
	if t.session(o.record.number) == nil {
		t.touched[o.record.number] = newCursor()
	}
	if err := given(t.bucket(bucketSessions), o.record.number); err != nil {
		return err
	}
	return t.putSession(&o.record)
}

// A closeOp is a Closed.
type closeOp struct {
	client string
	number uint64
	at     stamp
	sent   uint64
	shares bool
}

func (o *closeOp) place(r *register) { o.number = r.number(o.client) }

func (o *closeOp) apply(t *txn) error {
	rec := t.sessionRecord(o.client)
	if rec == nil || rec.number != o.number {
		return nil
	}
	rec.closed, rec.sent, rec.shares, rec.will = &o.at, o.sent, o.shares, nil
	return t.putSession(rec)
}

// A removeOp is a Removed.
type removeOp struct {
	client string
	entry  *entry // nil: there was no such session
}

func (o *removeOp) place(r *register) {
	o.entry = r.sessions[o.client]
	delete(r.sessions, o.client)
}

// undo brings the session back after the removal failed, unless a new one has taken its place.
func (o *removeOp) undo(r *register) {
	if o.entry != nil && r.sessions[o.client] == nil {
		r.sessions[o.client] = o.entry
	}
}

func (o *removeOp) apply(t *txn) error {
	rec := t.sessionRecord(o.client)
	if rec == nil || o.entry == nil || rec.number != o.entry.number {
		return nil
	}
	if err := t.bucket(bucketSessions).Delete(nameKey(nil, o.client)); err != nil {
		return err
	}
	return t.discard(rec.number)
}

// A keyOp puts or deletes one key that belongs to a session: a subscription by its filter, a
// received packet identifier by its number.
type keyOp struct {
	client string
	number uint64
	bucket int
	name   string
	id     uint16
	record []byte // nil: delete
}

func (o *keyOp) place(r *register) { o.number = r.number(o.client) }

func (o *keyOp) apply(t *txn) error {
	if t.session(o.number) == nil {
		return nil
	}
	key := receivedKey(o.number, o.id)
	if o.bucket == bucketSubscriptions {
		key = nameKey(numberKey(o.number), o.name)
	}
	if o.record == nil {
		return t.bucket(o.bucket).Delete(key)
	}
	return t.bucket(o.bucket).Put(key, o.record)
}

// An advanceOp is an Advanced.
type advanceOp struct {
	void     bool // its message is not written either
	client   string
	number   uint64
	position uint64
	stage    session.Stage
}

func (o *advanceOp) place(r *register) {
	o.number = r.number(o.client)
	if o.stage != session.Done {
		return
	}
	at := place{o.number, o.position}
	e, ok := r.early[at]
	if !ok {
		return
	}
	e.target.void, o.void = true, true
	delete(r.early, at)
	if e.op.void() {
		r.voided = append(r.voided, e.unit)
	}
}

func (o *advanceOp) apply(t *txn) error {
	if o.void {
		return nil
	}
	if c := t.session(o.number); c != nil {
		c.advance(o.position, o.stage)
	}
	return nil
}

// A retainOp is a Retained.
type retainOp struct {
	topic  string
	record []byte // nil: delete
}

func (c *clock) encodeRetained(m *session.Message) (*retainOp, error) {
	o := &retainOp{topic: m.Publish.Topic}
	if len(m.Publish.Payload) == 0 {
		return o, nil
	}
	rec, err := appendMessage(unsealed(messageSize(&m.Publish)), c.of(m), m.Publish)
	if err != nil {
		return o, err
	}
	o.record = seal(rec)
	return o, nil
}

func (*retainOp) place(*register) {}

func (o *retainOp) apply(t *txn) error {
	key := nameKey(nil, o.topic)
	if o.record == nil {
		return t.bucket(bucketRetained).Delete(key)
	}
	return t.bucket(bucketRetained).Put(key, o.record)
}

// An enqueueOp is an Enqueued. With one target the message is in its record, with several it is
// stored once.
type enqueueOp struct {
	change  *session.Enqueued
	targets []target
	body    []byte    // record of the message, nil with one target
	number  uint64    // of the body
	size    int64     // of the PUBLISH packet
	expires time.Time // zero: never
}

type target struct {
	change           *session.Target
	number, position uint64 // 0: there is no such session
	record           []byte // sealed, or waiting for the number of the body

	room   *session.Room
	rule   *session.Rule
	holder session.Holder
	from   uint64 // what holder has said
	sent   uint64
	void   bool // it was acknowledged before it was written
}

func newTarget(to *session.Target) target {
	return target{change: to, room: to.Room, rule: to.Rule, holder: to.Holder}
}

// messageSize is about what a message needs in a record.
func messageSize(p *packet.Publish) int {
	const stampSize = 8 + 3*4
	return stampSize + p.Size(packet.V5)
}

func (c *clock) encodeEnqueued(change *session.Enqueued) (*enqueueOp, error) {
	m := change.Message
	change.Dropped = nil
	o := &enqueueOp{change: change, targets: make([]target, len(change.To)), size: int64(m.Publish.Size(packet.V5))}
	o.expires, _ = m.Expires()
	when := c.of(m)
	shared := len(change.To) > 1
	room := 2
	if !shared {
		room += messageSize(&m.Publish)
	}
	for i, to := range change.To {
		to.Position, to.Held = 0, false
		o.targets[i] = newTarget(to)
		o.targets[i].record = appendTarget(unsealed(room+5*len(to.SubscriptionIDs)+len(to.Share)+8), to, shared)
	}
	var err error
	switch len(change.To) {
	case 0:
	case 1:
		t := &o.targets[0]
		if t.record, err = appendMessage(t.record, when, m.Publish); err == nil {
			sealQueued(t.record)
		}
	default:
		if o.body, err = appendMessage(unsealed(messageSize(&m.Publish)), when, m.Publish); err == nil {
			seal(o.body)
		}
	}
	return o, err
}

// grows is what the op adds to the file, about.
func (o *enqueueOp) grows() int64 {
	n := int64(len(o.body))
	for i := range o.targets {
		n += int64(len(o.targets[i].record))
	}
	return n
}

func (o *enqueueOp) place(r *register) {
	if o.body != nil {
		r.lastBody++
		o.number = r.lastBody
	}
	for i := range o.targets {
		t := &o.targets[i]
		if e := r.sessions[t.change.Client]; e != nil && e.number == t.change.Incarnation {
			t.number, t.position = e.number, e.next
			t.change.Position = e.next
			e.next++
			if t.change.Early {
				r.early[place{t.number, t.position}] = early{r.unit, o, t}
			}
		}
	}
}

func (o *enqueueOp) apply(t *txn) error {
	o.change.Dropped = nil // the transaction may have failed, and be tried again
	additions := o.additions(t)
	short, err := t.relieve(o, additions)
	if err != nil {
		return err
	}
	references, need := uint64(0), int64(len(o.body))
	for i := range additions {
		a := &additions[i]
		need += int64(len(a.rec))
		kept, err := a.admit(o, need, short)
		if err == nil {
			err = a.put(o, kept)
		}
		if err != nil {
			return err
		}
		if kept {
			t.room -= need
			need = 0 // the body is there once
			references++
		} else {
			need -= int64(len(a.rec))
		}
	}
	if o.body == nil || references == 0 {
		return nil
	}
	if err := given(t.bucket(bucketBodies), o.number); err != nil {
		return err
	}
	key := numberKey(o.number)
	if err := t.bucket(bucketBodies).Put(key, o.body); err != nil {
		return err
	}
	return t.bucket(bucketRefs).Put(key, numberRecord(references))
}

// additions returns what the message is for the queues that it is for and that are there.
func (o *enqueueOp) additions(t *txn) []addition {
	additions := make([]addition, 0, len(o.targets))
	for i := range o.targets {
		to := &o.targets[i]
		if to.void {
			continue
		}
		c := t.session(to.number)
		if c == nil {
			continue
		}
		rec := to.record
		if o.body != nil {
			rec = sealQueued(appendShared(append([]byte(nil), rec...), o.number, o.size)) // of a copy, which can be made again
		}
		additions = append(additions, addition{eviction{t: t, to: to, c: c}, rec})
	}
	return additions
}

// void reports whether nothing of the message has to be written.
func (o *enqueueOp) void() bool {
	for i := range o.targets {
		if !o.targets[i].void {
			return false
		}
	}
	return len(o.targets) > 0
}

// put writes the record, if it is kept.
func (a *addition) put(o *enqueueOp, kept bool) error {
	to, c, t := a.to, a.c, a.t
	if !kept {
		to.change.Position = 0
		return nil
	}
	if to.change.Position == 0 {
		to.change.Position = to.position
	}
	if to.rule != nil {
		p := c.part(to.rule.Number)
		p.filter = to.rule.Filter
		c.setPart(to.rule.Number, p)
	}
	c.add(to.position, to.part(), o.size)
	if !o.expires.IsZero() {
		c.expect(o.expires)
	}
	if to.room != nil {
		t.placed[to.number] = append(t.placed[to.number], to)
	}
	t.messages++
	return t.bucket(bucketQueue).Put(queueKey(to.number, to.position), a.rec)
}
