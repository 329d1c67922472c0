package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/packet"
	"gateway/broker/session"
)

func as(user string, c packet.Connect) packet.Connect {
	c.Username, c.HasUsername = user, true
	return c
}

// A session stays its user's through a restart: another one who comes with the client identifier does not
// get it, and ends nothing. What an anonymous client has left goes over to who comes with a name.
func TestOwnerThroughRestart(t *testing.T) {
	store := newMemory()
	t.Cleanup(store.close)
	listen := func() (open, s *site) {
		open = start(t, store, broker.Limits{})
		return open, open.listen(broker.Listener{Name: "test", Auth: named{}})
	}
	_, s := listen()
	for _, user := range []string{"ann", ""} {
		w := s.connect(packet.V5, as(user, kept("of "+user)))
		w.send(subscribe(1, filter("secret", 1)))
		w.expect("SUBACK 1…")
	}
	s.stop()
	open, s := listen()
	pub := open.connect(packet.V5, clean("pub"))
	pub.send(publish("secret", "x", 1, 1))
	pub.expect("PUBACK 1")
	s.stop()
	open, s = listen()
	for i, tt := range []struct {
		user string
		v    packet.Version
		c    packet.Connect
	}{{"ben", packet.V5, kept("of ann")}, {"", packet.V5, kept("of ann")}, {"ben", packet.V5, clean("of ann")}, {"ben", packet.V311, clean("of ann")}} {
		c := as(tt.user, tt.c)
		w := s.dial(tt.v)
		w.send(&c)
		w.expect("CONNACK Client Identifier not valid", "closed")
		if p := w.connack.Properties; tt.v == packet.V5 && (p == nil || strings.Contains(p.ReasonString, "ann")) {
			t.Errorf("%q is told %+v", tt.user, p)
		}
		if got := open.server.Stats().Taken.Load(); got != int64(i+1) {
			t.Errorf("%d clients are counted, want %d", got, i+1)
		}
	}
	s.again(packet.V5, as("ann", kept("of ann"))).expect("PUBLISH secret=x q1 id1…")
	w := s.again(packet.V5, as("ben", kept("of ")))
	w.expect("PUBLISH secret=x q1 id1…")
	w.send(&packet.Disconnect{})
	w.expect("closed")
	// What ben has now is his, from one restart to the next.
	for range 2 {
		s.stop()
		_, s = listen()
	}
	s.again(packet.V5, as("ben", kept("of ")))
	w = s.dial(packet.V5)
	c := as("", kept("of "))
	w.send(&c)
	w.expect("CONNACK Client Identifier not valid", "closed")
}

// supers are rules that let one user do everything, and others too.
type supers struct{ *grant }

func (supers) Super(c *auth.Client) bool { return c.User == "root" }

// assigned gives every client its user name as identifier.
type assigned struct{}

func (assigned) Authenticate(_ context.Context, a auth.Attempt) (auth.Identity, error) {
	return auth.Identity{User: "card of " + a.Username, ClientID: a.Username}, nil
}

// Another user's identifier is for super users, and for whom it belongs to by its login: they get a new
// session, and the other one ends.
func TestIdentifierOfAnother(t *testing.T) {
	open := start(t, nil, broker.Limits{})
	s := open.listen(broker.Listener{Name: "test", Auth: named{}, Rules: supers{&grant{}}})
	cards := open.listen(broker.Listener{Name: "cards", Auth: assigned{}})
	for _, tt := range []struct {
		site *site
		c    packet.Connect
	}{{s, as("root", kept("a"))}, {cards, as("a", kept("whatever"))}} {
		w := s.connect(packet.V5, as("ann", kept("a")))
		w.send(subscribe(1, filter("x", 1)))
		w.expect("SUBACK 1…")
		other := tt.site.connect(packet.V5, tt.c)
		if other.connack.SessionPresent {
			t.Errorf("%s finds another's session", tt.c.Username)
		}
		w.expect("DISCONNECT Session taken over", "closed")
		p := open.connect(packet.V5, clean("p"))
		p.send(publish("x", "1", 1, 1))
		p.expect("PUBACK 1 No matching subscribers")
		tt.c.CleanStart, tt.c.Properties.SessionExpiry = true, 0
		other = tt.site.connect(packet.V5, tt.c)
		other.send(&packet.Disconnect{})
		other.expect("closed")
	}
}

// only lets one user publish, and only from where it came.
type only struct{ user string }

func (o only) Authorize(_ context.Context, c *auth.Client, r auth.Request) auth.Verdict {
	if c.User == "cid" {
		return auth.Verdict{Rule: "nobody can be asked", Unsure: true}
	}
	return auth.Verdict{Allowed: c.User == o.user && c.ID == "of "+c.User && c.Listener == "test", Rule: "only"}
}

// textRules are rules of an identity that can be stored.
type textRules struct{ text string }

func (textRules) Authorize(context.Context, *auth.Client, auth.Request) auth.Verdict {
	return auth.Verdict{}
}

// noText are rules that cannot be stored.
type noText struct{}

func (noText) Authorize(context.Context, *auth.Client, auth.Request) auth.Verdict {
	return auth.Verdict{}
}

func (r textRules) MarshalJSON() ([]byte, error) { return []byte(r.text), nil }

// grouped lets in everybody, with groups and rules.
type grouped struct{}

func (grouped) Authenticate(_ context.Context, a auth.Attempt) (auth.Identity, error) {
	id := auth.Identity{User: a.Username, By: "test", Groups: []string{"night"}, Rules: textRules{`["` + a.Username + `"]`}}
	if a.Username == "cid" {
		id.Rules = noText{}
	}
	return id, nil
}

// The will of a client that has not been back since a restart is published if it still may: it is asked with
// all that was known of the client.
func TestWillsAreAskedAboutAfterRestart(t *testing.T) {
	store := newMemory()
	t.Cleanup(store.close)
	s := start(t, store, broker.Limits{})
	watch := s.connect(packet.V5, kept("watch"))
	watch.send(subscribe(1, filter("will/#", 1)))
	watch.expect("SUBACK 1…")
	l := s.listen(broker.Listener{Name: "test", Auth: grouped{}})
	for _, user := range []string{"ann", "ben", "cid", "dan", "eve"} {
		c := as(user, kept("of "+user))
		c.Will = &packet.Will{Topic: "will/" + user, Payload: []byte("gone"), QoS: 1}
		if user == "eve" {
			c.Will.Delay = 1 // what is denied is not kept until it is due
		}
		l.connect(packet.V5, c)
	}
	inside, err := s.server.Connect(broker.ClientOptions{ID: "$own", SessionExpiry: broker.Never})
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	s.stop()

	asked := make(chan session.Owner, 10)
	s = startWith(t, store, broker.Options{Recall: func(o *session.Owner) (*auth.Client, auth.Authorizer, error) {
		asked <- *o
		if o.User == "dan" {
			return nil, nil, errors.New("the listener is gone")
		}
		return &auth.Client{Identity: auth.Identity{User: o.User, Groups: o.Groups, By: o.By}, ID: o.Client, Listener: o.Listener}, only{"ann"}, nil
	}})
	got := map[string]bool{}
	watch = s.again(packet.V5, kept("watch"))
	for range 2 {
		name, _, _ := strings.Cut(strings.TrimPrefix(watch.read(), "PUBLISH "), "=")
		got[name] = true
	}
	if fmt.Sprint(got) != "map[will/ann:true will/cid:true]" {
		t.Errorf("published: %v", got)
	}
	eventually(t, "all wills are asked about", func() bool { return len(asked) == 5 })
	watch.silent()
	for range 5 {
		o := <-asked
		rules := `["` + o.User + `"]`
		if o.User == "cid" {
			rules = "null"
		}
		if o.Listener != "test" || o.Client != "of "+o.User || o.By != "test" || fmt.Sprint(o.Groups) != "[night]" || o.Addr != "127.0.0.1" || string(o.Rules) != rules {
			t.Errorf("asked about %+v", o)
		}
	}
}
