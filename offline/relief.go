package offline

import (
	"bytes"
	"cmp"
	"slices"

	bolt "go.etcd.io/bbolt"

	"gateway/broker/session"
)

// sparedMost is how many messages of a queue are passed over, because they would give no room, before one
// that is new is dropped. Where they end is remembered.
const sparedMost = 64

// An addition is a message on its way into one queue.
type addition struct {
	eviction
	rec []byte // to be put
}

// bounded reports whether there may be no room for it.
func (a *addition) bounded() bool { return a.to.room != nil && !a.to.change.Early }

// relieve drops, when the file has no room for a message, the oldest ones of the queues that it is for and
// that make room; it reports whether there was none. Of each queue one goes in turn, and only what
// gives room: a body that queues share does when it goes from all of them. When that does not suffice
// nothing is dropped, and there is no room for the message.
func (t *txn) relieve(o *enqueueOp, additions []addition) (short bool, err error) {
	need := int64(len(o.body))
	for i := range additions {
		if a := &additions[i]; a.bounded() {
			if err := a.old(); err != nil {
				return false, err
			}
			need += int64(len(a.rec))
		}
	}
	for i := range additions {
		if a := &additions[i]; a.bounded() && need > t.room {
			if _, err := expire(t, a.to); err != nil {
				return false, err
			}
		}
	}
	if need <= t.room {
		return false, nil
	}
	r := relief{t: t, need: int64(len(o.body)), bodies: make(map[uint64]struct{})}
	for i := range additions {
		if a := &additions[i]; a.bounded() && a.to.policy() == session.DropOldest {
			r.need += int64(len(a.rec))
			r.queues = append(r.queues, newSharer(&a.eviction))
		}
	}
	for more := true; more && t.room+r.room < r.need && r.victims < evictMost; {
		more = false
		for i := range r.queues {
			if t.room+r.room < r.need && r.one(&r.queues[i]) {
				more = true
			}
		}
	}
	// What is left of a quota that was lowered is left to the next.
	enough := t.room+r.room >= r.need || r.victims >= evictMost
	for i := range r.queues {
		if err := r.queues[i].settle(enough); err != nil {
			return true, err
		}
	}
	return true, nil
}

// A relief is what one message makes queues drop for want of room in the file.
type relief struct {
	t       *txn
	need    int64 // bytes
	room    int64 // bytes that the victims give
	victims int
	queues  []sharer
	bodies  map[uint64]struct{} // that go
}

// A sharer is one queue of a relief.
type sharer struct {
	*eviction
	at, ahead *lookout
	held      bool // some of the queue is before them that may go when nobody holds it
	victims   []victim
}

// A victim is a record that is to be dropped.
type victim struct {
	key      []byte
	bytes    int64 // of the record and its key
	position uint64
	rule     uint32
	size     int64 // of the PUBLISH packet
	body     uint64
}

// spared stands for the position before which nothing gives room, as far as is known.
const spared = anyRule + 1

func newSharer(e *eviction) sharer {
	held, _ := e.to.hold()
	first := max(e.c.head, e.c.scanned[spared])
	from := max(first, held)
	return sharer{eviction: e, at: newLookout(e, from), ahead: newLookout(e, from), held: from > first}
}

// one finds the oldest message of a queue that gives room, and those that share its body.
func (r *relief) one(s *sharer) bool {
	for v, ok := s.at.next(); ok; v, ok = s.at.next() {
		if _, gone := r.bodies[v.body]; gone {
			continue
		}
		if v.body == 0 {
			r.room += v.bytes
			r.victims++
			s.victims = append(s.victims, v)
			s.at.passed = 0
			return true
		}
		if r.share(s, v) {
			s.at.passed = 0
			return true
		}
	}
	return false
}

// share takes a message that may have its body in common with others, if the queues of all of these make
// room.
func (r *relief) share(s *sharer, v victim) bool {
	left := references(r.t, v.body)
	if left > int64(len(r.queues)) {
		return false
	}
	found := make([]victim, len(r.queues))
	for i := range r.queues {
		q := &r.queues[i]
		if q == s {
			found[i] = v
		} else if other, ok := q.ahead.find(v.body); ok {
			found[i] = other
		} else {
			continue
		}
		left--
	}
	if left > 0 {
		return false
	}
	r.bodies[v.body] = struct{}{}
	r.room += bodySize(r.t, v.body)
	for i, v := range found {
		if v.key != nil {
			r.room += v.bytes
			r.victims++
			r.queues[i].victims = append(r.queues[i].victims, v)
		}
	}
	return true
}

// settle drops the victims of a queue, if they suffice.
func (s *sharer) settle(enough bool) error {
	if s.c.scanned == nil {
		s.c.scanned = make(map[uint64]uint64)
	}
	switch {
	case s.held:
	case len(s.victims) > 0:
		s.c.scanned[spared] = s.victims[0].position
	case s.at.ended:
		delete(s.c.scanned, spared) // others may have gone meanwhile that shared a body
	default:
		s.c.scanned[spared] = s.at.position
	}
	if !enough {
		return nil
	}
	slices.SortFunc(s.victims, func(v, w victim) int { return cmp.Compare(v.position, w.position) })
	var keys [][]byte
	for _, v := range s.victims {
		s.drop(v, session.Full)
		keys = append(keys, v.key)
	}
	return s.remove(keys)
}

// A lookout goes through the messages of a queue that may be dropped for want of room, the oldest first.
type lookout struct {
	*eviction
	at       *bolt.Cursor
	position uint64 // of the next record, or before it
	begun    bool
	passed   int // records without success
	ended    bool
	last     victim // what next has returned
}

func newLookout(e *eviction, from uint64) *lookout {
	return &lookout{eviction: e, at: e.t.bucket(bucketQueue).Cursor(), position: from}
}

func (l *lookout) next() (victim, bool) {
	for l.passed < sparedMost && !l.ended {
		key, rec := l.step()
		position, ok := queuePosition(key, l.to.number)
		if !ok {
			l.ended = true
			break
		}
		l.position = position + 1
		l.passed++
		q, err := parseTarget(rec[min(sealSize, len(rec)):])
		if err != nil || !l.may(q.rule, anyRule) || l.c.stages[position] != session.Pending {
			continue
		}
		l.last = victim{bytes.Clone(key), int64(len(key) + len(rec)), position, q.rule, q.size, q.body}
		return l.last, true
	}
	return victim{}, false
}

func (l *lookout) step() (key, rec []byte) {
	if l.begun {
		return l.at.Next()
	}
	l.begun = true
	return l.at.Seek(queueKey(l.to.number, l.position))
}

// find goes on to the message that refers to a body. Bodies are numbered in the order of positions.
func (l *lookout) find(body uint64) (victim, bool) {
	for ok := true; ok && l.last.body < body; {
		_, ok = l.next()
	}
	if l.last.body == body {
		l.passed = 0
	}
	return l.last, l.last.body == body
}

// references returns how many records refer to a body.
func references(t *txn, body uint64) int64 {
	all, _ := parseNumber(t.bucket(bucketRefs).Get(numberKey(body))) // what cannot be read holds up nothing
	return int64(all) - int64(t.unreferenced[body])
}

func bodySize(t *txn, body uint64) int64 {
	return int64(len(t.bucket(bucketBodies).Get(numberKey(body))))
}
