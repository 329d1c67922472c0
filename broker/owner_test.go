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

// A session stays its user's through a restart: another one who comes with the client identifier gets a
// new one, and finds neither subscriptions nor messages.
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
	s.again(packet.V5, as("ann", kept("of ann"))).expect("PUBLISH secret=x q1 id1")
	s.stop()
	_, s = listen()
	for _, tt := range []struct{ user, of string }{{"ben", "ann"}, {"", "ann"}, {"ann", ""}} {
		w := s.connect(packet.V5, as(tt.user, kept("of "+tt.of)))
		if w.connack.SessionPresent {
			t.Errorf("%q takes over the session of %q", tt.user, tt.of)
		}
		w.silent()
	}
	// What ben has now is his, from one restart to the next.
	w := s.connect(packet.V5, as("ben", kept("of ann")))
	w.send(subscribe(1, filter("secret", 1)))
	w.expect("SUBACK 1…")
	for range 2 {
		s.stop()
		_, s = listen()
	}
	s.again(packet.V5, as("ben", kept("of ann")))
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
