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

	bySender bool // see Options.ShareBySender; else in turn
}

type member struct {
	s   *Session
	sub subscription
}

// pick returns the member that gets a message of a sender: of those that are connected, else of those whose
// session keeps the message for them, the one whose turn it is, or the sender's own. One that may not receive it
// gets it only if there is no other. ok is false when there is none.
func (g *group) pick(name string, qos packet.QoS, sender string) (m member, ok bool) {
	members := g.members
	turn := 0
	if !g.bySender {
		turn = int(g.turn.Add(1))
	}
	best, most := 0, uint64(0)
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
		if rank == 0 || rank < best {
			continue
		}
		if g.bySender {
			w := weight(sender, one.s.id)
			if rank == best && w <= most {
				continue
			}
			most = w
		} else if rank == best {
			continue
		}
		if m, best = one, rank; best == 4 && !g.bySender {
			break
		}
	}
	return m, best > 0
}

// weight returns how much a sender's messages want to a member. Each sender has an order of the members of
// its own, which is the same after a restart: when one comes or goes, only those move that it has (rendezvous
// hashing).
func weight(sender, member string) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211 // FNV-1a
	h := uint64(offset)
	for i := range len(sender) {
		h = (h ^ uint64(sender[i])) * prime
	}
	h *= prime // as of a byte 0, which no client identifier has
	for i := range len(member) {
		h = (h ^ uint64(member[i])) * prime
	}
	// The last bytes have hardly reached the high bits.
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
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
		g = &group{full: full, filter: filter, bySender: t.bySender}
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
