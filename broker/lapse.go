package broker

import (
	"container/heap"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// Messages whose expiry interval has passed are removed before anything is refused or dropped for want of
// room, and at the latest with the next statistics [MQTT-3.3.2-5]: also those that nobody asks for.

// A lapse is when the retained message of a topic expires, unless there is another one by then.
type lapse struct {
	at    time.Time
	topic string
}

// A lapseHeap has the next lapse first.
type lapseHeap []lapse

func (h lapseHeap) Len() int           { return len(h) }
func (h lapseHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h lapseHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *lapseHeap) Push(x any)        { *h = append(*h, x.(lapse)) }
func (h *lapseHeap) Pop() any {
	last := (*h)[len(*h)-1]
	(*h)[len(*h)-1] = lapse{}
	*h = (*h)[:len(*h)-1]
	return last
}

// noteLapse notes when a message that is retained now will expire. Those of messages that were replaced
// stay until they are too many. The routes are locked.
func noteLapse(t *routes, m *session.Message) {
	at, ever := m.Expires()
	if !ever {
		return
	}
	heap.Push(&t.lapses, lapse{at, m.Publish.Topic})
	const few = 64
	if len(t.lapses) <= 2*t.retained.Len()+few {
		return
	}
	kept := t.lapses[:0]
	for _, l := range t.lapses {
		if m, ok := t.retained.Get(l.topic); ok {
			if at, ever := m.Expires(); ever && at.Equal(l.at) {
				kept = append(kept, l)
			}
		}
	}
	clear(t.lapses[len(kept):])
	t.lapses = kept
	heap.Init(&t.lapses)
}

// lapsed returns some of the retained messages that have expired, none when all are removed.
func lapsed(t *routes, now time.Time) (found []*session.Message) {
	const some = 256
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(found) < some && len(t.lapses) > 0 && !t.lapses[0].at.After(now) {
		l := heap.Pop(&t.lapses).(lapse)
		m, ok := t.retained.Get(l.topic)
		if !ok {
			continue
		}
		if _, expired := remaining(m, now); expired {
			found = append(found, m)
		}
	}
	return found
}

// removeLapsed removes the retained messages that have expired. s.retaining is locked.
func removeLapsed(s *Server, now time.Time) {
	for {
		found := lapsed(&s.routes, now)
		if found == nil {
			return
		}
		var changes []session.Change
		for _, m := range found {
			changes = append(changes, unretain(s, m, now))
		}
		s.later(changes)
	}
}

// trimAll removes what has expired or become too old, wherever it is.
func trimAll(s *Server) {
	s.registry.trim()
	s.retaining.Lock()
	defer s.retaining.Unlock()
	removeLapsed(s, time.Now())
}

// unretain removes a retained message, and returns what is to be stored of that. s.retaining is locked.
func unretain(s *Server, m *session.Message, now time.Time) session.Change {
	gone := &session.Message{Publish: packet.Publish{Topic: m.Publish.Topic}, At: now}
	s.routes.keep(gone, 0)
	return &session.Retained{Message: gone}
}

// awaits notes when a message of a session's queue will expire. The session is locked.
func awaits(n *Session, m *session.Message) {
	if at, ever := m.Expires(); ever {
		awaitLapse(n, at)
	}
}

func awaitLapse(n *Session, at time.Time) {
	if n.lapse.IsZero() || at.Before(n.lapse) {
		n.lapse = at
	}
}

// lapsing reports whether messages of a session's queue may have expired. That is then to be looked for, and
// is not reported again. The session is locked.
func lapsing(n *Session, now time.Time) bool {
	if n.lapse.IsZero() || now.Before(n.lapse) {
		return false
	}
	n.lapse = time.Time{}
	return true
}

// removeExpired removes what has expired from the queue of a session in memory only. The session is
// locked.
func removeExpired(n *Session, now time.Time) {
	if !lapsing(n, now) {
		return
	}
	removed := session.Remove(&n.state.Queue, func(m *session.Message) bool {
		_, expired := remaining(m, now)
		if !expired {
			awaits(n, m)
		}
		return expired
	})
	n.srv.stats.Expired.Add(int64(removed))
}
