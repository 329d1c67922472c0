package broker

import (
	"errors"
	"fmt"
	"math"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// errAbsent is why a message is refused while the store cannot be read.
var errAbsent = errors.New("the store cannot be opened")

// Adopt goes on where the store's last server ended, for a store that could not be read when this one
// began; see Options.Absent. A client that is connected with a session of the same name finds the
// stored one when it comes again, for which it is disconnected, unless it wanted none.
func (s *Server) Adopt() error {
	r := restoring{srv: s, sessions: make(map[string]*Session), closed: make(map[*Session]*session.Closed)}
	s.registry.ordering.Lock() // nobody comes or goes meanwhile
	err := s.store.Restore(r.apply)
	s.registry.mu.Lock()
	for id, n := range r.sessions {
		s.registry.sessions[id] = n
	}
	s.registry.mu.Unlock()
	s.registry.ordering.Unlock()
	if err != nil {
		return fmt.Errorf("restore sessions: %w", err)
	}
	s.absent.Store(false)
	for _, c := range r.changes { // those that need no room do not fail with those that do
		s.later([]session.Change{c})
	}
	r.resume()
	return nil
}

// A restoring is a server that replays the store's facts.
type restoring struct {
	srv      *Server
	sessions map[string]*Session
	closed   map[*Session]*session.Closed
	changes  []session.Change // what has happened since to the things replayed
}

// apply takes one fact. Those about a session that a client has ended since find none.
func (r *restoring) apply(c session.Change) {
	s := r.srv
	switch c := c.(type) {
	case *session.Opened:
		if !s.registry.giveWay(c.Client) {
			r.changes = append(r.changes, &session.Removed{Client: c.Client})
			return
		}
		n := newSession(s, c.Client, true)
		n.number, n.expiry, n.will, n.owner = c.Incarnation, c.Expiry, c.Will, c.Owner
		r.sessions[c.Client] = n
	case *session.Closed:
		if n := r.sessions[c.Client]; n != nil {
			r.closed[n] = c
			n.will = nil
		}
	case *session.Subscribed:
		if n := r.sessions[c.Client]; n != nil {
			s.routes.subscribe(n, c.Subscription, c.ID)
		}
	case *session.Summary:
		if n := r.sessions[c.Client]; n != nil {
			closed, known := r.closed[n]
			if !known {
				closed = new(session.Closed)
			}
			n.state.Queue = session.RestoredQueue(c, closed.Sent)
			n.shares = n.shares || c.Head < c.Next && (!known || closed.Shares)
			n.state.Inbox = session.RestoredInbox(c)
			if c.Expiring {
				n.lapse = time.Now() // the store will tell
			}
		}
	case *session.Dropped:
		if r.sessions[c.Client] != nil {
			s.losses.add(*c)
		}
	case *session.Retained:
		if now := s.routes.kept(c.Message.Publish.Topic); len(now) > 0 { // a topic is a filter for itself
			r.changes = append(r.changes, &session.Retained{Message: now[0]})
			return
		}
		s.routes.keep(c.Message, math.MaxInt)
	}
}

// giveWay makes way for a stored session, and reports false if a client has asked for another since.
func (g *registry) giveWay(id string) bool {
	g.mu.Lock()
	old := g.sessions[id]
	g.mu.Unlock()
	if old == nil {
		return true
	}
	old.mu.Lock()
	stopgap := old.stopgap
	if stopgap && old.peer != nil {
		old.peer.kick(packet.ServerBusy)
	}
	old.mu.Unlock()
	if stopgap {
		_, _, will := old.displace(true)
		g.handOn(old)
		if will != nil {
			g.srv.publishWill(old.id, will, nil)
		}
	}
	return stopgap
}

// resume lets the time go on for sessions whose clients are away.
func (r *restoring) resume() {
	now := time.Now()
	for _, n := range r.sessions {
		// The clock of a board without battery may be years off: time away is never negative.
		away := time.Duration(0)
		closed, ok := r.closed[n]
		n.mu.Lock()
		if n.peer != nil {
			n.mu.Unlock()
			continue
		}
		if ok {
			away = max(0, now.Sub(closed.At))
		}
		cut := !ok && n.will == nil
		n.since = now.Add(-away)
		ending := closing(n)
		owned := n.will != nil && n.owner != nil
		n.mu.Unlock()
		if cut {
			// It was connected when the power went: from now on its expiry counts.
			r.srv.later([]session.Change{ending})
		}
		if !owned || !r.srv.start(func() { r.srv.registry.due(n) }) { // a service may have to be asked
			r.srv.registry.due(n)
		}
	}
}
