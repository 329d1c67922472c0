package broker

import (
	"encoding/json"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// ownerOf returns what is stored of the client of a session: who it is, and if it leaves a will, what decides
// about that. It is nil for one of the gateway's own.
func ownerOf(a *access, will *packet.Will) *session.Owner {
	if a == nil {
		return nil
	}
	c := a.client
	o := &session.Owner{User: c.User}
	if will == nil {
		return o
	}
	o.Client, o.Listener, o.Groups, o.Super, o.By = c.ID, c.Listener, c.Groups, c.Super, c.By
	if c.Addr.IsValid() {
		o.Addr = c.Addr.String()
	}
	if c.Certificate != nil {
		o.Certificate = c.Certificate.Raw
	}
	if c.Rules == nil {
		return o
	}
	// Rules that cannot be stored leave a text that nobody can read, so that they are not forgotten.
	o.Rules = []byte("null")
	if rules, ok := c.Rules.(json.Marshaler); ok {
		if text, err := rules.MarshalJSON(); err == nil {
			o.Rules = text
		}
	}
	return o
}

// belongsTo reports whether the session may be taken over by a client: one of another user does not
// find what was meant for the first one.
func belongsTo(n *Session, a *access) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case a == nil:
		return true
	case n.access != nil:
		return n.access.client.User == a.client.User
	}
	return n.owner == nil || n.owner.User == a.client.User
}

// adopt notes what the client of a session may do. The session is locked.
func adopt(n *Session, a *access) {
	n.access, n.owner, n.rights = a, nil, rights{}
	n.filter.Store(nil)
	if a != nil && a.filters {
		n.filter.Store(a)
	}
}

// vet takes its will from a client that may not publish it any more.
func (g *registry) vet(n *Session) {
	n.mu.Lock()
	w, a, o := n.will, n.access, n.owner
	n.mu.Unlock()
	if w == nil || g.may(w, a, o) {
		return
	}
	g.srv.stats.Dropped.Add(1)
	n.mu.Lock()
	changed := n.will == w
	if changed {
		n.will = nil
	}
	away := n.peer == nil
	closed := &session.Closed{Client: n.id, At: n.since}
	n.mu.Unlock()
	if changed && away && n.durable {
		g.srv.later([]session.Change{closed})
	}
}

// may reports whether a will may be published, by what is known of its client in this process or else by
// what was stored of it.
func (g *registry) may(w *packet.Will, a *access, o *session.Owner) bool {
	if a == nil && o != nil && g.srv.recall != nil {
		c, rules, err := g.srv.recall(o)
		if err != nil {
			g.srv.log.Warn("a will is not published: it is not known whether its client may", "client", o.Client, "user", o.User, "topic", w.Topic, "error", err)
			return false
		}
		a = newAccess(g.srv, c, rules)
	}
	return a.stands(w)
}
