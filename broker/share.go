package broker

import (
	"slices"
	"sync/atomic"

	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/broker/topic"
)

// A group is one shared subscription: each message goes to one of its members (5.0, 4.8.2).
type group struct {
	full    string   // its filter
	filter  string   // without "$share/name/"
	members []member // replaced at each change, so that publishers can read it
	turn    atomic.Uint32
}

type member struct {
	s   *Session
	sub subscription
}

// pick returns the member whose turn it is to get a message: of those that are connected, else of
// those whose session keeps the message for them; one that may not receive it only if there is no other.
// ok is false when there is none.
func (g *group) pick(name string, qos packet.QoS) (m member, ok bool) {
	members := g.members
	turn := int(g.turn.Add(1))
	best := 0
	for i := range members {
		one := members[(turn+i)%len(members)]
		rank := 0
		switch {
		case one.s.connected.Load():
			rank = 2
		case one.s.durable && min(one.sub.qos, qos) > 0:
			rank = 1
		}
		if rank > 0 && one.s.filter.Load().may(name, min(one.sub.qos, qos)) {
			rank += 2
		}
		if rank > best {
			m, best = one, rank
		}
		if best == 4 {
			break
		}
	}
	return m, best > 0
}

// with returns the members with m, in the place of the one of the same session.
func (g *group) with(m member) []member {
	return append(g.without(m.s), m)
}

// without returns the members but for a session.
func (g *group) without(s *Session) []member {
	return slices.DeleteFunc(slices.Clone(g.members), func(m member) bool { return m.s == s })
}

// share adds a session to the group of a shared subscription. The routes are locked.
func (t *routes) share(full, filter string, m member) {
	g := t.groups[full]
	if g == nil {
		if t.groups == nil {
			t.groups = make(map[string]*group)
		}
		g = &group{full: full, filter: filter}
		t.groups[full] = g
		t.shared.Set(filter, g, struct{}{})
	}
	g.members = g.with(m)
}

// unshare removes a session from a group. The routes are locked.
func (t *routes) unshare(full string, s *Session) (existed bool) {
	g := t.groups[full]
	if g == nil {
		return false
	}
	rest := g.without(s)
	existed = len(rest) < len(g.members)
	g.members = rest
	if len(rest) == 0 {
		delete(t.groups, full)
		t.shared.Delete(g.filter, g)
	}
	return existed
}

// handOn gives what a session that has ended had in memory, and has not acknowledged, to other members of
// the shared subscriptions by which it came [MQTT-4.8.2-5]. The rest is dropped with the session.
func (g *registry) handOn(n *Session) {
	g.srv.routes.unroute(n)
	n.mu.Lock()
	dropped := n.state.Queue.Undelivered()
	some, _ := n.state.Queue.Transferable(nil)
	n.mu.Unlock()
	g.srv.stats.Dropped.Add(int64(dropped - len(some)))
	for _, q := range some {
		pass(g.srv, q.Share, q.Message)
	}
}

// pass passes a message on to another member than one whose session has ended.
func pass(s *Server, share string, m *session.Message) {
	r := s.routes.another(share, m)
	if r == nil {
		s.stats.Dropped.Add(1)
		return
	}
	u := unit{srv: s, done: func(reason packet.ReasonCode) {
		if reason.Failed() {
			s.stats.Dropped.Add(1)
		}
	}}
	if u.deliver(r, &r.hits[0]); u.enqueued != nil {
		u.changes = append(u.changes, u.enqueued)
		u.submit(&r.round)
	}
	r.settle()
}

// another routes a message to the member of a shared subscription that gets it after all, nil if there is
// none that may.
func (t *routes) another(share string, m *session.Message) *routing {
	p := m.Publish
	r := newRouting(nil, nil)
	r.begin(&p)
	r.m = m
	t.mu.RLock()
	if g := t.groups[share]; g != nil {
		r.addGroup("", g, struct{}{})
	}
	t.mu.RUnlock()
	if len(r.hits) == 0 {
		return nil
	}
	if h := &r.hits[0]; !h.s.filter.Load().receives(p.Topic, h.qos) {
		r.settle()
		return nil
	}
	return r
}

func isShared(filter string) bool {
	_, _, shared, _ := topic.ParseShared(filter)
	return shared
}
