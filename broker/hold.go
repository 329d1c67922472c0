package broker

import (
	"cmp"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"gateway/broker/session"
	"gateway/broker/topic"
)

// Bounds of queues are what there is room for in the queues of durable sessions.
type queueBounds struct {
	named  map[string]*session.Room // by client identifier
	others *session.Room            // those of the network that are not named
}

// of returns what bounds the queue of a session, nil if nothing does.
func (b *queueBounds) of(n *Session) *session.Room {
	if q := b.named[n.id]; q != nil {
		return q
	}
	if own(n.id) {
		return nil
	}
	return b.others
}

// target returns a session as the target of a message of a topic, which belongs to the first rule
// whose filter matches.
func (b *queueBounds) target(n *Session, name string) *session.Target {
	to := &session.Target{Client: n.id, Incarnation: n.number, Holder: (*holder)(n)}
	if q := b.of(n); q != nil {
		to.Room = q
		for i := range q.Rules {
			if topic.Match(q.Rules[i].Filter, name) {
				to.Rule = &q.Rules[i]
				break
			}
		}
	}
	return to
}

// A holder is a session as the store sees it, which drops messages from its queue.
type holder Session

// Hold tells the store from which position on it may drop messages, and keeps them from being sent
// until letGo. To a client that takes some, what is in memory, and will be soon, is on its way; with
// one that is away or stuck it is what was sent.
func (h *holder) Hold() (from, sent uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.leaving != nil { // its messages are being handed on
		h.holds = append(h.holds, math.MaxUint64)
		return math.MaxUint64, math.MaxUint64
	}
	q := &h.state.Queue
	oldest, sent := q.Span()
	moves := h.peer != nil && oldest != h.stuckAt
	if h.stuckAt = oldest; !moves {
		q.Unload()
	}
	if from, _, _ = q.Missing(); moves {
		from += readAhead
	}
	h.holds = append(h.holds, from)
	h.lowest = min(h.lowest, from)
	return from, sent
}

// Expired counts messages that nobody may get any more.
func (h *holder) Expired(messages int64) {
	h.mu.Lock()
	session.Vanished(&h.state.Queue, int(messages))
	h.mu.Unlock()
	h.srv.stats.Expired.Add(messages)
}

// vanished takes what quotas have dropped out of the count of what is in the store. A message that was dropped
// itself has never been counted.
func (h *holder) vanished(dropped []session.Dropped, itself bool) {
	n := 0
	for _, d := range dropped {
		if d.Client == h.id {
			n += int(d.Messages)
		}
	}
	if itself && n > 0 {
		n--
	}
	if n > 0 {
		h.mu.Lock()
		session.Vanished(&h.state.Queue, n)
		h.mu.Unlock()
	}
}

// letGo ends the oldest hold: units are done in the order in which they hold.
func (h *holder) letGo() {
	h.mu.Lock()
	if h.holds = h.holds[1:]; len(h.holds) == 0 {
		h.holds = nil
	}
	changes := (*Session)(h).pump(nil)
	h.mu.Unlock()
	h.srv.later(changes)
}

// barrier returns the position from which on messages are held, or not yet in the store to be read.
// The session is locked.
func (h *holder) barrier() uint64 {
	lowest := uint64(math.MaxUint64)
	if len(h.holds) > 0 {
		lowest = slices.Min(h.holds)
	}
	if len(h.early) > 0 {
		lowest = min(lowest, h.early[0])
	}
	return lowest
}

// mostEarly is how many messages a client may have to acknowledge that gets another before it is
// durable: as many as can be on their way at all, or wait in half a second of a stream of 2,000 a second
// after one of them had to be written. Beyond readAheadBytes there is none either.
const mostEarly = session.MaxWindow

// attentive reports whether the client is there and keeps up, so that it will get a message at once
// and is far from what bounds its queue.
func (h *holder) attentive(to *session.Target, size int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := &h.state.Queue
	n, bytes := int64(q.Len()+len(h.ahead)), int64(q.Bytes()+size)
	return h.peer != nil && !h.ended && n < mostEarly && bytes < readAheadBytes &&
		(to.Room == nil || to.Room.Quota.Holds(2*n+2, 2*bytes)) &&
		(to.Rule == nil || to.Rule.Quota.Holds(2*n+2, 2*bytes))
}

// An ahead is a message that is not durable yet, and waits to be sent early behind one that has to be.
type ahead struct {
	session.Queued
	over *atomic.Bool // it has become durable, or never will be
}

// take takes a message that is not durable yet. over tells that it has become so, or never will. It is
// sent as soon as nothing is between it and what is in memory.
func (h *holder) take(over *atomic.Bool, q session.Queued) {
	h.mu.Lock()
	if h.ended || h.peer == nil || over.Load() || len(h.ahead) >= mostEarly {
		h.mu.Unlock()
		return
	}
	i, _ := slices.BinarySearchFunc(h.ahead, q.Position, func(a ahead, p uint64) int { return cmp.Compare(a.Position, p) })
	h.ahead = slices.Insert(h.ahead, i, ahead{q, over})
	changes := (*Session)(h).pump(nil)
	h.mu.Unlock()
	h.srv.later(changes)
}

// advance puts what waits to be sent early into the queue, as far as it follows what is there. The
// session is locked.
func (h *holder) advance() {
	for len(h.ahead) > 0 {
		a := h.ahead[0]
		loaded, next, _ := h.state.Queue.Missing()
		done := a.Position < max(next, 1) || a.over.Load() || h.ended || h.peer == nil // it comes, or came, as any other
		if !done && (loaded < next || a.Position != max(next, 1) || len(h.holds) > 0) {
			return
		}
		h.ahead[0] = ahead{}
		if h.ahead = h.ahead[1:]; len(h.ahead) == 0 {
			h.ahead = nil
		}
		if done {
			continue
		}
		h.early = append(h.early, a.Position)
		h.lowest = min(h.lowest, a.Position)
		h.state.Queue.Committed(a.Queued, mostEarly)
	}
}

// stored tells that the message at a position is in the store, or never will be. The session is
// locked.
func (h *holder) stored(position uint64) {
	if i := slices.Index(h.early, position); i >= 0 {
		h.early = slices.Delete(h.early, i, i+1)
	}
}

// failed tells that a message could not be stored. If it was sent before, it is delivered as any other.
func (h *holder) failed(t *session.Target) {
	if t.Early {
		h.mu.Lock()
		h.stored(t.Position)
		h.mu.Unlock()
	}
}

// missed counts a message that the session did not get because it has ended. If it has not, a quota
// dropped the message, and the store has told of it.
func (h *holder) missed() {
	h.mu.Lock()
	ended := h.ended
	h.mu.Unlock()
	if ended {
		h.srv.stats.Dropped.Add(1)
	}
}

// trim drops what has become too old in the queues of sessions, and what is beyond a quota that was
// lowered, and removes what has expired.
func (g *registry) trim() {
	var sessions []*Session
	g.mu.Lock()
	for _, n := range g.sessions {
		sessions = append(sessions, n)
	}
	g.mu.Unlock()
	now := time.Now()
	for _, n := range sessions {
		q, lapsed := g.srv.queues.of(n), false
		n.mu.Lock()
		if n.durable {
			lapsed = lapsing(n, now)
		} else {
			removeExpired(n, now)
		}
		n.mu.Unlock()
		if lapsed || n.durable && q != nil && q.Quota.Age > 0 {
			trim(n, q, nil)
		}
		for i := 0; n.durable && q != nil && i < len(q.Rules); i++ {
			if max(q.Rules[i].Quota.Age, q.Quota.Age) > 0 {
				trim(n, q, &q.Rules[i])
			}
		}
	}
}

// trim trims one part of a session's queue. The store does it in pieces.
func trim(n *Session, q *session.Room, rule *session.Rule) {
	to := &session.Target{Client: n.id, Incarnation: n.number, Room: q, Rule: rule, Holder: (*holder)(n)}
	t := &session.Trimmed{To: to}
	n.srv.store.Submit([]session.Change{t}, true, func(err error) {
		if err == nil {
			(*holder)(n).vanished(t.Dropped, false)
		}
		if to.Held {
			(*holder)(n).letGo()
		}
		now := time.Now()
		if err != nil {
			t.Next = now // what has expired is looked for with the next statistics
		}
		if !t.Next.IsZero() {
			n.mu.Lock()
			awaitLapse(n, t.Next)
			n.mu.Unlock()
		}
		if err == nil && (len(t.Dropped) > 0 || !t.Next.IsZero() && !t.Next.After(now)) {
			n.srv.losses.lost(t.Dropped)
			trim(n, q, rule)
		}
	})
}
