package broker

import (
	"encoding/json"
	"errors"

	"gateway/broker/auth"
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

// belongsTo reports whether the session is that of a client: one of another user does not find what was
// meant for the first one. What an anonymous client has left is anybody's, as it was when it came in.
func belongsTo(n *Session, a *access) bool {
	if a == nil {
		return true
	}
	user := userOf(n)
	return user == "" || user == a.client.User
}

// userOf returns whose a session is, empty if it is an anonymous client's or nobody knows.
func userOf(n *Session) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.access != nil:
		return n.access.client.User
	case n.owner != nil:
		return n.owner.User
	}
	return ""
}

// mayTake reports whether a client may have the identifier of a session. Another user's ends when it does,
// which is for super users, and for those whose login says that the identifier is theirs.
func mayTake(n *Session, a *access) bool {
	return belongsTo(n, a) || a.client.ClientID != "" || auth.Super(a.client, a.rules)
}

// errTaken is why a client does not get an identifier. It does not tell whose that is.
var errTaken = errors.New("the client identifier is in use")

// taken counts and logs a client that wants the identifier of another user's session, and returns what it is
// told.
func taken(c *conn, id string) *packet.Error {
	c.srv.stats.Taken.Add(1)
	if untold, due := c.srv.contested.due(); due {
		c.srv.log.Warn("a client identifier is another user's", "client", id, "user", c.client.User, "listener", c.listener.Name, "from", c.nc.RemoteAddr(), "others_before", untold,
			"remedy", "give each client an identifier of its own, or let a super user connect with this one and a clean start")
	}
	return &packet.Error{Clause: "MQTT-3.1.3-8", Reason: packet.ClientIDNotValid, Text: errTaken.Error()}
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
	closed := closing(n)
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
