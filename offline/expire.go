package offline

import (
	"bytes"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
)

const (
	searchMost  = 4096             // records that one change looks at for messages that have expired
	searchPause = time.Second      // between two searches of a queue
	searchAgain = 10 * time.Second // until what was on its way, and had expired, is looked at again
)

// A search is for messages of one queue that have expired. It is not stored: after a start the first one goes
// through all of the queue, if anything in there may expire.
type search struct {
	due    time.Time // nothing expires before; zero: not known
	looked uint64    // where a search goes on
	least  time.Time // when the first expires of those that it has looked at; zero: none
}

// earlier returns the earlier one of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// expect notes when a message that is added to the queue will expire.
func (c *cursor) expect(at time.Time) {
	switch {
	case !c.expiring:
		c.expiring, c.search = true, search{due: at}
	case !c.due.IsZero():
		c.due = earlier(c.due, at)
	}
}

// A lapsed is what is told of messages that have expired, when their removal is durable.
type lapsed struct {
	holder   session.Holder
	messages int64
}

// expire removes from the queue of a target messages that have expired, unless they are on their way. It does
// so in pieces: next is when to go on, zero if nothing more will expire.
func expire(t *txn, to *target) (next time.Time, err error) {
	known, now := t.peek(to.number), time.Now()
	switch {
	case known == nil || !known.expiring:
		return time.Time{}, nil
	case now.Before(known.due):
		return known.due, nil
	}
	c := known
	if t.touched[to.number] == nil {
		c = known.clone()
	}
	s := searching{t: t, to: to, c: c, now: now}
	removed, err := s.run()
	switch {
	case err != nil:
		return now, err
	case removed || c.expiring != known.expiring:
		t.touched[to.number] = c
	default:
		known.search = c.search
	}
	switch {
	case !c.expiring:
		return time.Time{}, nil
	case c.due.IsZero():
		return now, nil // the search goes on
	}
	return c.due, nil
}

// A searching is one piece of a search.
type searching struct {
	t     *txn
	to    *target
	c     *cursor
	now   time.Time
	found []expired
}

// An expired is a record of a queue whose message has expired.
type expired struct {
	key      []byte
	position uint64
	q        queued
	bytes    int64 // of key and record
}

// run looks at the next records and removes what has expired.
func (s *searching) run() (removed bool, err error) {
	through := s.look()
	if len(s.found) > 0 {
		if removed, err = s.remove(); err != nil {
			return false, err
		}
	}
	if c := s.c; through {
		c.expiring = !c.least.IsZero()
		c.search = search{due: c.least}
		if soonest := s.now.Add(searchPause); c.expiring && c.due.Before(soonest) {
			c.due = soonest
		}
	}
	return removed, nil
}

// look finds what has expired in the next records, and reports whether they were the last ones. What this
// transaction itself has put is left for later.
func (s *searching) look() (through bool) {
	c, src := s.c, txSource{s.t.tx}
	if !c.due.IsZero() {
		c.search = search{} // a new one begins
	}
	end := uint64(0)
	if before := s.t.cursors[s.to.number]; before != nil {
		end = before.next
	}
	at := s.t.bucket(bucketQueue).Cursor()
	key, rec := at.Seek(queueKey(s.to.number, max(c.head, c.looked)))
	for n := 0; ; n++ {
		position, ok := queuePosition(key, s.to.number)
		if !ok {
			return true
		}
		if n == searchMost {
			c.looked = position
			return false
		}
		if stage := c.stages[position]; stage != session.Done {
			m, err := queuedMessage(src, position, rec, s.t.clock.restore)
			if err == nil {
				s.consider(key, rec, m, stage == session.Pending && position < end)
			}
		}
		key, rec = at.Next()
	}
}

// consider notes when a message expires, or that it has.
func (s *searching) consider(key, rec []byte, m session.Queued, mayGo bool) {
	at, ever := m.Message.Expires()
	switch {
	case !ever:
	case at.After(s.now):
		s.c.least = earlier(s.c.least, at)
	case !mayGo:
		s.c.least = earlier(s.c.least, s.now.Add(searchAgain))
	default:
		q, err := parseTarget(rec[min(sealSize, len(rec)):])
		if err == nil {
			q.message = nil // it is the file's
			s.found = append(s.found, expired{bytes.Clone(key), m.Position, q, int64(len(key) + len(rec))})
		}
	}
}

// remove deletes what was found, but for what is on its way: what was once sent at QoS 2 has to be completed
// [MQTT-4.3.3-7].
func (s *searching) remove() (some bool, err error) {
	from, sent := s.to.hold()
	var keys [][]byte
	for _, x := range s.found {
		if x.position < from || x.q.qos == packet.QoS(2) && x.position < sent {
			s.c.least = earlier(s.c.least, s.now.Add(searchAgain))
			continue
		}
		keys = append(keys, x.key)
		s.c.weigh(x.q.rule, -1, x.q.size)
		s.t.room += x.bytes
		if x.q.body != 0 {
			s.t.unreferenced[x.q.body]++
			if references(s.t, x.q.body) == 0 {
				s.t.room += bodySize(s.t, x.q.body)
			}
		}
	}
	if len(keys) == 0 {
		return false, nil
	}
	s.t.lapsed = append(s.t.lapsed, lapsed{s.to.holder, int64(len(keys))})
	e := eviction{t: s.t, to: s.to, c: s.c}
	return true, e.remove(keys)
}
