package broker

import (
	"math"

	"gateway/broker/auth"
	"gateway/broker/session"
	"gateway/broker/topic"
)

// Rights say which messages of a session's queue its client may still have: some came by subscriptions
// that it may not have any more. They are of one connection, and the session's lock guards them.
type rights struct {
	below  uint64          // positions of messages that may have come by such a subscription
	may    map[string]bool // what is known, by topic
	asking bool            // somebody finds out about one more
}

// mostRights is how many topics a session remembers its client's right to.
const mostRights = 256

// doubt has the messages asked about that have come before its client did, or with lost all that are
// yet to be sent: what was withdrawn from the client just now may still be on its way to the queue.
func doubt(s *Session, lost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rights = rights{}
	if a := s.access; a == nil || a.rules == nil && a.client.Rules == nil {
		return // it may have everything
	}
	_, next, _ := s.state.Queue.Missing()
	s.rights = rights{below: next}
	if lost {
		s.rights.below = math.MaxUint64
	}
}

// entitled reports whether the client may have a message that was queued for it: it has a subscription for
// it, or may have one. Known is false while somebody asks about that, who then calls pump. The lock is held.
func entitled(s *Session, name string, position uint64) (may, known bool) {
	if s.access == nil || position >= s.rights.below {
		return true, true
	}
	if may, known = s.rights.may[name]; known {
		return may, true
	}
	for _, f := range s.subs {
		if _, rest, shared, _ := topic.ParseShared(f); shared {
			f = rest
		}
		if topic.Match(f, name) {
			s.rights.learn(name, true)
			return true, true
		}
	}
	if !s.rights.asking {
		a := s.access
		s.rights.asking = s.srv.start(func() { ask(s, a, name) })
	}
	return false, false
}

// learn remembers the right to a topic.
func (r *rights) learn(name string, may bool) {
	if r.may == nil || len(r.may) >= mostRights {
		r.may = make(map[string]bool)
	}
	r.may[name] = may
}

// ask finds out whether the client may have messages of a topic, which may take a service its time.
func ask(s *Session, a *access, name string) {
	may := a.mayStill(name)
	s.mu.Lock()
	var changes []session.Change
	if s.access == a {
		s.rights.asking = false
		s.rights.learn(name, may)
		changes = s.pump(nil)
	}
	s.mu.Unlock()
	s.srv.later(changes)
}

// mayStill reports whether the client may have what was queued of a topic: nobody says that it may not
// subscribe to that.
func (a *access) mayStill(name string) bool {
	v := auth.Decide(a.srv.ctx, a.client, a.rules, auth.Request{Action: auth.Subscribe, Topic: name})
	return v.Allowed || v.Unsure
}

// mayNext decides about the next message of the queue. Without wait, the client may have it or is not to
// have it; one that was sent at QoS 2 is completed. The lock is held.
func mayNext(s *Session) (may, wait bool) {
	e, ok := session.Peek(&s.state.Queue)
	if !ok || e.Stage != session.Pending || e.QoS == 2 && s.state.Queue.Again(e) { // [MQTT-4.3.3-7]
		return true, false
	}
	may, known := entitled(s, e.Message.Publish.Topic, e.Position)
	if known && !may {
		s.srv.denials.count[auth.Receive].Add(1)
	}
	return may && s.access.receives(e.Message.Publish.Topic, e.QoS), !known
}
