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
		case one.s.durable:
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
		g = &group{filter: filter}
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

// handOn gives what an ended session has not acknowledged to the other members of its groups:
// messages at QoS 1, and at QoS 2 those that were never sent to it [MQTT-4.8.2-5]. filters are the
// session's subscriptions. A message that also came by an ordinary subscription is dropped with the
// session, as are all others.
func (g *registry) handOn(n *Session, filters []string) {
	n.mu.Lock()
	dropped := n.state.Queue.Undelivered()
	open := n.state.Queue.Transferable()
	n.mu.Unlock()
	if slices.ContainsFunc(filters, isShared) {
		for _, e := range open {
			if to := g.srv.routes.groupFor(e.Message.Publish.Topic, filters); to != nil {
				to.hand(g.srv, e)
				dropped--
			}
		}
	}
	g.srv.stats.Dropped.Add(int64(dropped))
}

// hand gives a message to a member of the group.
func (g *group) hand(s *Server, e session.Entry) {
	m, ok := g.pick(e.Message.Publish.Topic, e.Message.Publish.QoS)
	if !ok {
		s.stats.Dropped.Add(1)
		return
	}
	h := hit{s: m.s, qos: min(m.sub.qos, e.Message.Publish.QoS)}
	if m.sub.id != 0 {
		h.ids = []uint32{m.sub.id}
	}
	deliver(s, e.Message, &h)
}

func isShared(filter string) bool {
	_, _, shared, _ := topic.ParseShared(filter)
	return shared
}

// groupFor returns the group by which a message came to a session with these subscriptions, nil
// if it came by an ordinary one.
func (t *routes) groupFor(name string, filters []string) *group {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var found *group
	for _, f := range filters {
		_, rest, shared, _ := topic.ParseShared(f)
		if !topic.Match(rest, name) {
			continue
		}
		if !shared {
			return nil
		}
		if g := t.groups[f]; g != nil {
			found = g
		}
	}
	return found
}
