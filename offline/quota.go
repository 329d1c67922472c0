package offline

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"gateway/broker/session"
)

// evictMost is how many messages one change drops. What is left, when a quota was lowered or much
// has become old, is left to the next.
const evictMost = 4096

// policy returns what becomes of a message for the target that there is no room for.
func (to *target) policy() session.Policy {
	if to.room == nil {
		return session.Refuse
	}
	return to.room.Policy(to.part())
}

// age returns how old messages of the target's rule, or queue, may become, 0: any.
func (to *target) age() time.Duration {
	switch {
	case to.rule != nil && to.rule.Quota.Age > 0:
		return to.rule.Quota.Age
	case to.room != nil:
		return to.room.Quota.Age
	}
	return 0
}

// part is the number of the part of the queue that the target's messages belong to.
func (to *target) part() uint32 {
	if to.rule != nil {
		return to.rule.Number
	}
	return 0
}

// hold returns from which position on messages may be dropped, and before which they may have been sent.
func (to *target) hold() (from, sent uint64) {
	if to.holder == nil {
		return math.MaxUint64, math.MaxUint64
	}
	if !to.change.Held {
		to.from, to.sent = to.holder.Hold()
		to.change.Held = true
	}
	return to.from, to.sent
}

// within reports whether the quotas of a target hold with so many messages more.
func (to *target) within(c *cursor, messages, size int64) bool {
	return (to.room == nil || to.room.Quota.Holds(c.count+messages, c.bytes+size)) && to.withinRule(c, messages, size)
}

func (to *target) withinRule(c *cursor, messages, size int64) bool {
	if to.rule == nil {
		return true
	}
	p := c.part(to.rule.Number)
	return to.rule.Quota.Holds(p.count+messages, p.bytes+size)
}

// refuses returns why a unit is not to be taken, nil if it is. It is asked before the unit changes
// anything.
func (t *txn) refuses(u *unit) error {
	for _, o := range u.ops {
		switch o := o.(type) {
		case *retainOp:
			if o.record != nil && lacks(t, u.grows) {
				return t.noRoom()
			}
		case *enqueueOp:
			if err := refusesMessage(t, o, u.grows); err != nil {
				return err
			}
		}
	}
	return nil
}

// refusesMessage is refuses for a message. When the whole store is short of room, a queue that has
// something does with it what its policy says; one that is empty has no share in the shortage, and
// its publishers are told. What has expired makes room before.
func refusesMessage(t *txn, o *enqueueOp, grows int64) error {
	for i := range o.targets {
		to := &o.targets[i]
		c := t.peek(to.number)
		if c == nil || to.void {
			continue
		}
		if lacks(t, grows) || to.policy() == session.Refuse && !to.within(c, 1, o.size) {
			if _, err := expire(t, to); err != nil {
				return err
			}
			c = t.peek(to.number)
		}
		switch {
		case lacks(t, grows) && (to.policy() == session.Refuse || c.count == 0):
			return t.noRoom()
		case to.policy() == session.Refuse && !to.within(c, 1, o.size):
			return fmt.Errorf("%w: the quota of the queue of %q", ErrFull, to.change.Client)
		}
	}
	return nil
}

// lacks reports whether there is too little room in the file for what a unit adds.
func lacks(t *txn, grows int64) bool { return grows > 0 && grows > t.room }

func (t *txn) noRoom() error {
	t.short = true
	return fmt.Errorf("%w: %d bytes are left of its quota", ErrFull, max(t.room, 0))
}

// admit sees to it that a queue may take one message more, which needs so many bytes of a file that may
// be short of room. If it cannot, the message is dropped, and admit reports false.
func (a *addition) admit(o *enqueueOp, need int64, short bool) (bool, error) {
	if !a.bounded() {
		return true, nil
	}
	if !a.to.within(a.c, 1, o.size) {
		if _, err := expire(a.t, a.to); err != nil {
			return false, err
		}
	}
	room := a.t.room >= need && (!short || a.to.policy() == session.DropOldest)
	if room && a.to.policy() == session.DropOldest {
		if err := a.full(1, o.size); err != nil {
			return false, err
		}
	}
	kept := room && a.to.within(a.c, 1, o.size)
	if !kept {
		a.c.next = max(a.c.next, a.to.position+1)
		if a.c.count == 0 {
			a.c.head = a.c.next
		}
		a.note(a.to.position, a.to.part(), o.size, session.Full)
	}
	o.change.Dropped = append(o.change.Dropped, a.dropped...)
	return kept, nil
}

// olderThan returns a condition on records: that their message is older.
func (e *eviction) olderThan(age time.Duration) func(rec []byte) bool {
	src := txSource{e.t.tx}
	return func(rec []byte) bool {
		q, err := queuedMessage(src, 0, rec, e.t.clock.restore)
		return err == nil && q.Message.Waited+time.Since(q.Message.At) > age
	}
}

// An eviction is what one change makes a queue drop.
type eviction struct {
	t       *txn
	to      *target
	c       *cursor // of the target's session
	dropped []session.Dropped
}

// old drops what is older than the target's quota allows.
func (e *eviction) old() error {
	age := e.to.age()
	if age == 0 || e.c.count == 0 {
		return nil
	}
	return e.evict(session.Old, uint64(e.to.part()), e.olderThan(age))
}

// full drops messages until the quotas hold with so many more: of its own rule as long as that has too
// many, then of all rules that make room.
func (e *eviction) full(more, size int64) error {
	if e.to.within(e.c, more, size) {
		return nil
	}
	if e.to.rule != nil {
		own := func([]byte) bool { return !e.to.withinRule(e.c, more, size) }
		if err := e.evict(session.Full, uint64(e.to.rule.Number), own); err != nil {
			return err
		}
	}
	if !e.to.withinRule(e.c, more, size) {
		return nil // to drop others would not help
	}
	return e.evict(session.Full, anyRule, func([]byte) bool { return !e.to.within(e.c, more, size) })
}

// anyRule stands for all rules whose messages make room for others.
const anyRule = 1 << 32

// may reports whether a message that came by a rule is among those to be dropped.
func (e *eviction) may(number uint32, which uint64) bool {
	if which == anyRule {
		return e.to.room.Policy(number) == session.DropOldest
	}
	return uint64(number) == which
}

// evict drops messages that came by a rule, or by any, and were never sent, the oldest first, as long
// as it is to go on.
func (e *eviction) evict(reason session.Reason, which uint64, goOn func(rec []byte) bool) error {
	t, to, c := e.t, e.to, e.c
	first := max(c.head, c.scanned[which])
	queue := t.bucket(bucketQueue)
	at := queue.Cursor()
	key, rec := at.Seek(queueKey(to.number, first))
	if _, ok := queuePosition(key, to.number); !ok || !goOn(rec) {
		return nil // before anybody is held up
	}
	held, _ := to.hold()
	from := max(first, held)
	seen := first
	var keys [][]byte
	for key, rec = at.Seek(queueKey(to.number, from)); len(keys) < evictMost; key, rec = at.Next() {
		position, ok := queuePosition(key, to.number)
		if !ok || !goOn(rec) {
			break
		}
		if from == first {
			seen = position + 1
		}
		q, err := parseTarget(rec[min(sealSize, len(rec)):])
		if err != nil || !e.may(q.rule, which) || c.stages[position] != session.Pending {
			continue
		}
		keys = append(keys, bytes.Clone(key))
		e.drop(victim{nil, int64(len(key) + len(rec)), position, q.rule, q.size, q.body}, reason)
	}
	if seen > first {
		if c.scanned == nil {
			c.scanned = make(map[uint64]uint64)
		}
		c.scanned[which] = seen
	}
	return e.remove(keys)
}

// drop takes a record out of the books, but not yet out of the queue. The body that it refers to goes with
// the last one that does.
func (e *eviction) drop(v victim, reason session.Reason) {
	e.c.weigh(v.rule, -1, v.size)
	e.t.room += v.bytes
	if v.body != 0 {
		e.t.unreferenced[v.body]++
		if references(e.t, v.body) == 0 {
			e.t.room += bodySize(e.t, v.body)
		}
	}
	e.unplace(v.position)
	e.note(v.position, v.rule, v.size, reason)
}

// unplace takes back the position of a message that this transaction itself has put.
func (e *eviction) unplace(position uint64) {
	placed := e.t.placed[e.to.number]
	i, ok := slices.BinarySearchFunc(placed, position, func(to *target, p uint64) int { return cmp.Compare(to.position, p) })
	if ok {
		placed[i].change.Position = 0
	}
}

// remove deletes records that were dropped from a queue.
func (e *eviction) remove(keys [][]byte) error {
	if len(keys) == 0 {
		return nil
	}
	queue := e.t.bucket(bucketQueue)
	for _, key := range keys {
		if err := queue.Delete(key); err != nil {
			return err
		}
	}
	if keyNumber(keys[0][8:]) == e.c.head {
		e.c.seek(queue, e.to.number)
	}
	return nil
}

// note counts one message that was dropped.
func (e *eviction) note(position uint64, number uint32, size int64, reason session.Reason) {
	filter := e.to.room.Filter(number)
	p := e.c.part(number)
	p.filter = filter
	p.dropped[reason].note(position, size, e.t.now)
	e.c.setPart(number, p)
	at := e.t.now.time()
	one := session.Dropped{Client: e.to.change.Client, Rule: number, Filter: filter, Reason: reason,
		Messages: 1, Bytes: size, First: position, Last: position, Since: at, Until: at}
	if n := len(e.dropped); n > 0 && e.dropped[n-1].Reason == reason && e.dropped[n-1].Rule == number {
		e.dropped[n-1].Add(one)
		return
	}
	e.dropped = append(e.dropped, one)
}

// A trimOp is a Trimmed.
type trimOp struct {
	change *session.Trimmed
	to     target
}

func (o *trimOp) place(r *register) {
	if e := r.sessions[o.to.change.Client]; e != nil && e.number == o.to.change.Incarnation {
		o.to.number = e.number
	}
}

func (o *trimOp) apply(t *txn) (err error) {
	o.change.Dropped = nil
	if o.change.Next, err = expire(t, &o.to); err != nil {
		return err
	}
	known := t.peek(o.to.number)
	if known == nil || known.count == 0 {
		return nil
	}
	c := known.clone()
	e := eviction{t: t, to: &o.to, c: c}
	if err := e.old(); err != nil {
		return err
	}
	if o.to.policy() == session.DropOldest {
		if err := e.full(0, 0); err != nil {
			return err
		}
	}
	if e.dropped != nil {
		t.touched[o.to.number] = c
		o.change.Dropped = e.dropped
	}
	return nil
}

// A dropOp is a Dropped, when a store is saved from a damaged file.
type dropOp struct {
	change *session.Dropped
	number uint64
	since  stamp
	until  stamp
}

func (o *dropOp) place(r *register) { o.number = r.number(o.change.Client) }

func (o *dropOp) apply(t *txn) error {
	c := t.session(o.number)
	if c == nil || o.change.Reason >= session.Reasons {
		return nil
	}
	p := c.part(o.change.Rule)
	p.filter = o.change.Filter
	p.dropped[o.change.Reason] = tally{
		count: o.change.Messages, bytes: o.change.Bytes, first: o.change.First, last: o.change.Last,
		since: o.since, until: o.until,
	}
	c.setPart(o.change.Rule, p)
	return nil
}
