package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/packet"
)

// A ban denies what its lines say, "publish a/b", and has rules for what is received. Users are
// told apart by their names only.
type ban struct {
	mu     sync.Mutex
	denied []string
}

func (b *ban) set(lines ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.denied = lines
}

func (b *ban) Authorize(_ context.Context, c *auth.Client, r auth.Request) auth.Verdict {
	b.mu.Lock()
	defer b.mu.Unlock()
	line := fmt.Sprint(r.Action, " ", r.Topic)
	if slices.Contains(b.denied, line) || slices.Contains(b.denied, c.User+" "+line) {
		return auth.Verdict{Rule: "test.rules:1: deny " + line}
	}
	return auth.Verdict{Allowed: true, Rule: "test.rules:2: allow"}
}

func (b *ban) Filters(*auth.Client) bool { return true }

// named lets everybody in under the user name that it gives.
type named struct{ expires time.Duration }

func (n named) Authenticate(_ context.Context, a auth.Attempt) (auth.Identity, error) {
	id := auth.Identity{User: a.Username, By: "test"}
	if n.expires > 0 {
		id.Expires = time.Now().Add(n.expires)
	}
	return id, nil
}

// 5.0 and 3.1.1, 5.4.2, [MQTT-3.3.5-2]; 3.1, 3.8: what a client hears that does what it may not do.
func TestDenied(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	rules := &ban{denied: []string{"publish no", "subscribe no", "subscribe no/+"}}
	ignore := s.listen(broker.Listener{Name: "ignore", Rules: rules})
	end := s.listen(broker.Listener{Name: "end", Rules: rules, EndDenied: true})
	two := subscribe(7, filter("no", 1), filter("yes", 1), filter("$share/g/no/+", 1), filter("no/#/no", 0))
	for _, tt := range []struct {
		version      packet.Version
		send         encoder
		ignored, end []string
	}{
		{packet.V5, publish("no", "x", 0, 0), nil, []string{"DISCONNECT Not authorized", "closed"}},
		{packet.V5, publish("no", "x", 1, 7), []string{"PUBACK 7 Not authorized"}, []string{"DISCONNECT Not authorized", "closed"}},
		{packet.V5, publish("no", "x", 2, 7), []string{"PUBREC 7 Not authorized"}, []string{"DISCONNECT Not authorized", "closed"}},
		{packet.V5, two, []string{"SUBACK 7 [Not authorized Granted QoS 1 Not authorized Topic Filter invalid]"}, []string{"DISCONNECT Not authorized", "closed"}},
		{packet.V311, publish("no", "x", 0, 0), nil, []string{"closed"}},
		{packet.V311, publish("no", "x", 1, 7), []string{"PUBACK 7"}, []string{"closed"}},
		{packet.V311, publish("no", "x", 2, 7), []string{"PUBREC 7"}, []string{"closed"}},
		{packet.V311, two, []string{"SUBACK 7 [Unspecified error Granted QoS 1 Unspecified error Unspecified error]"}, []string{"closed"}},
		{packet.V31, two, []string{"SUBACK 7 [Success Granted QoS 1 Success Unspecified error]"}, []string{"closed"}}, // 3.1, 3.8
	} {
		w := ignore.connect(tt.version, clean("a"))
		w.send(tt.send)
		w.expect(tt.ignored...)
		w.silent()
		w = end.connect(tt.version, clean("b"))
		w.send(tt.send)
		w.expect(tt.end...)
	}
	if got := s.server.Stats().Dropped.Load(); got != 6 {
		t.Errorf("%d publications counted as dropped, want 6", got)
	}
}

// 5.0, 3.4.2.2.2, 3.9.2.1.2: the reason string has the rule.
func TestDeniedSaysWhy(t *testing.T) {
	s := start(t, nil, broker.Limits{}).listen(broker.Listener{Name: "test", Rules: &ban{denied: []string{"publish no", "subscribe no"}}})
	w := s.connect(packet.V5, clean("a"))
	w.send(publish("no", "x", 1, 7))
	h, body := w.frame()
	if a, err := w.dec.Ack(h.Type, body); err != nil || !strings.Contains(a.ReasonString, "test.rules:1: deny publish no") {
		t.Errorf("PUBACK %+v, %v", a, err)
	}
	w.send(subscribe(8, filter("yes", 0), filter("no", 0)))
	h, body = w.frame()
	if a, err := w.dec.Suback(h.Type, body); err != nil || a.ReasonString != "test.rules:1: deny subscribe no" {
		t.Errorf("SUBACK %+v, %v", a, err)
	}
	c := clean("b")
	c.Will = &packet.Will{Topic: "no"}
	w = s.dial(packet.V5)
	w.send(&c)
	w.expect("CONNACK Not authorized", "closed")
	if why := w.connack.Properties.ReasonString; !strings.Contains(why, "the will: test.rules:1: deny publish no") {
		t.Errorf("CONNACK: %q", why)
	}
}

// What a client may not receive does not reach it, whichever way it would come, and is counted.
func TestReceive(t *testing.T) {
	open := start(t, nil, broker.Limits{})
	rules := &ban{denied: []string{"receive no"}}
	s := open.listen(broker.Listener{Name: "test", Rules: rules})
	p := open.connect(packet.V5, clean("publisher"))
	both := func(qos packet.QoS, id uint16, make func(string, string, packet.QoS, uint16) *packet.Publish) {
		p.send(make("no", "x", qos, id), make("yes", "x", qos, id+1))
		switch qos {
		case 1:
			p.expect(fmt.Sprintf("PUBACK %d…", id), fmt.Sprintf("PUBACK %d…", id+1))
		case 2:
			p.expect(fmt.Sprintf("PUBREC %d…", id), fmt.Sprintf("PUBREC %d…", id+1))
			p.send(ack(packet.PUBREL, id), ack(packet.PUBREL, id+1))
			p.expect(fmt.Sprintf("PUBCOMP %d", id), fmt.Sprintf("PUBCOMP %d", id+1))
		}
	}
	both(0, 0, retain)
	both(1, 1, func(topic, x string, q packet.QoS, id uint16) *packet.Publish { return retain(topic, x, 1, id) })
	w := s.connect(packet.V5, kept("a"))
	w.send(subscribe(1, filter("+", 2)))
	w.expect("SUBACK 1 [Granted QoS 2]", "PUBLISH yes=x q1 id1 retain") // the retained message
	w.send(ack(packet.PUBACK, 1))
	both(0, 0, publish)
	w.expect("PUBLISH yes=x q0")
	both(1, 3, publish)
	w.expect("PUBLISH yes=x q1 id2")
	w.send(ack(packet.PUBACK, 2))
	both(2, 5, publish)
	w.expect("PUBLISH yes=x q2 id3")
	w.send(ack(packet.PUBREC, 3))
	w.expect("PUBREL 3")
	w.send(ack(packet.PUBCOMP, 3), &packet.Disconnect{})
	w.expect("closed")
	both(1, 7, publish) // while the client is away
	w = s.again(packet.V5, kept("a"))
	w.expect("PUBLISH yes=x q1 id4")
	w.silent()
	if got := open.store.queued("a"); got != 1 {
		t.Errorf("%d messages are kept for the client, want the one that it may receive", got)
	}
	low := s.connect(packet.V5, clean("low"))
	low.send(subscribe(1, filter("+", 0)))
	low.expect("SUBACK 1 [Success]", "PUBLISH yes=x q0 retain")
	low.silent()

	// What was allowed when it was queued, and is not when it would be sent.
	w.send(ack(packet.PUBACK, 4), &packet.Disconnect{})
	w.expect("closed")
	p.send(publish("yes", "late", 1, 9), publish("other", "late", 1, 10))
	p.expect("PUBACK 9", "PUBACK 10")
	rules.set("receive yes")
	w = s.again(packet.V5, kept("a"))
	w.expect("PUBLISH other=late q1 id6")
	w.silent()
}

// [MQTT-4.3.3-10]: what was taken at QoS 2 is completed, though it may not be published any more.
func TestDeniedAfterItWasTaken(t *testing.T) {
	rules := &ban{}
	s := start(t, nil, broker.Limits{}).listen(broker.Listener{Name: "test", Rules: rules})
	w := s.connect(packet.V5, clean("a"))
	w.send(publish("x", "1", 2, 7))
	w.expect("PUBREC 7 No matching subscribers")
	rules.set("publish x")
	again := publish("x", "1", 2, 7)
	again.Dup = true
	w.send(again)
	w.expect("PUBREC 7")
	w.send(ack(packet.PUBREL, 7))
	w.expect("PUBCOMP 7")
	w.send(publish("x", "2", 2, 7))
	w.expect("PUBREC 7 Not authorized")
}

// A will must be allowed when the client leaves it and when it is published.
func TestDeniedWill(t *testing.T) {
	for _, delay := range []uint32{0, 1} {
		open := start(t, nil, broker.Limits{})
		rules := &ban{}
		s := open.listen(broker.Listener{Name: "test", Rules: rules})
		watch := open.connect(packet.V5, clean("watch"))
		watch.send(subscribe(1, filter("no", 0)))
		watch.expect("SUBACK 1 [Success]")
		c := kept("a")
		c.Will = &packet.Will{Topic: "no", Delay: delay}
		w := s.connect(packet.V5, c)
		rules.set("publish no")
		_ = w.nc.Close()
		eventually(t, "the will is dropped", func() bool { return open.server.Stats().Dropped.Load() == 1 })
		watch.silent()
	}
}

// A client finds its session again, without the subscriptions that it may not have any more. Another user
// does not get its identifier.
func TestSessionIsOfOneUser(t *testing.T) {
	open := start(t, nil, broker.Limits{})
	rules := &ban{}
	s := open.listen(broker.Listener{Name: "test", Rules: rules, Auth: named{}})
	c := kept("a")
	c.Username, c.HasUsername = "anna", true
	w := s.connect(packet.V5, c)
	w.send(subscribe(1, filter("x", 0), filter("y", 0)))
	w.expect("SUBACK 1 [Success Success]")
	rules.set("anna subscribe x")
	w = s.again(packet.V5, c)
	p := open.connect(packet.V5, clean("p"))
	p.send(publish("x", "1", 0, 0), publish("y", "1", 0, 0))
	w.expect("PUBLISH y=1 q0")
	w.silent()

	c.Username, c.HasUsername = "ben", true
	b := s.dial(packet.V5)
	b.send(&c)
	b.expect("CONNACK Client Identifier not valid", "closed")
	p.send(publish("y", "2", 0, 0))
	w.expect("PUBLISH y=2 q0")
}

// Disconnect ends the connections that match. Who is being let in meanwhile is asked again.
func TestDisconnect(t *testing.T) {
	open := start(t, nil, broker.Limits{})
	slow := &gatekeeper{came: make(chan string), answer: make(chan error)}
	s := open.listen(broker.Listener{Name: "test", Auth: slow})
	let := func(v packet.Version, user string) *wire {
		w := s.dial(v)
		w.send(&packet.Connect{ClientID: user, Username: user, HasUsername: true, CleanStart: true})
		<-slow.came
		slow.answer <- nil
		w.expect("CONNACK Success")
		return w
	}
	anna, old, ben := let(packet.V5, "anna"), let(packet.V311, "old"), let(packet.V5, "ben")
	late := s.dial(packet.V5)
	late.send(&packet.Connect{ClientID: "late", Username: "late", HasUsername: true, CleanStart: true})
	<-slow.came
	if n := open.server.Disconnect(func(c *auth.Client) bool { return c.User != "ben" }, packet.AdministrativeAction); n != 2 {
		t.Errorf("%d clients, want 2", n)
	}
	anna.expect("DISCONNECT Administrative action", "closed")
	old.expect("closed")
	ben.silent()
	slow.answer <- nil // what was valid before the revocation
	if again := <-slow.came; again != "late" {
		t.Errorf("asked again about %q", again)
	}
	slow.answer <- auth.ErrBanned
	late.expect("CONNACK Banned", "closed")
}

// A gatekeeper tells who comes, and answers as it is told.
type gatekeeper struct {
	came   chan string
	answer chan error
}

func (g *gatekeeper) Authenticate(_ context.Context, a auth.Attempt) (auth.Identity, error) {
	g.came <- a.Username
	return auth.Identity{User: a.Username}, <-g.answer
}

// 5.0, 3.14.2.1: the connection ends when what the client logged in with expires.
func TestExpires(t *testing.T) {
	s := start(t, nil, broker.Limits{}).listen(broker.Listener{Name: "test", Auth: named{expires: 100 * time.Millisecond}})
	w, old := s.connect(packet.V5, clean("a")), s.connect(packet.V311, clean("b"))
	w.expect("DISCONNECT Maximum connect time", "closed")
	old.expect("closed")
}

// refuser refuses with its error.
type refuser struct{ err error }

func (r refuser) Authenticate(context.Context, auth.Attempt) (auth.Identity, error) {
	return auth.Identity{}, fmt.Errorf("with a reason for the log: %w", r.err)
}

// 5.0, 3.2.2.2 and 3.1.1, 3.2.2.3: what a client is told that may not come in.
func TestRefusals(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	for _, tt := range []struct {
		err     error
		v5, old packet.ReasonCode
	}{
		{auth.ErrUnknown, packet.NotAuthorized, packet.NotAuthorized},
		{errors.New("other"), packet.NotAuthorized, packet.NotAuthorized},
		{auth.ErrBadCredentials, packet.BadUserNameOrPassword, packet.BadUserNameOrPassword},
		{auth.ErrBanned, packet.Banned, packet.NotAuthorized},
		{auth.ErrUnavailable, packet.ServerUnavailable, packet.ServerUnavailable},
	} {
		l := s.listen(broker.Listener{Name: "test", Auth: refuser{tt.err}})
		for v, want := range map[packet.Version]packet.ReasonCode{packet.V5: tt.v5, packet.V311: tt.old} {
			w := l.dial(v)
			c := clean("a")
			w.send(&c)
			w.expect("CONNACK "+want.String(), "closed")
			if p := w.connack.Properties; v == packet.V5 && (p == nil || strings.Contains(p.ReasonString, "log")) {
				t.Errorf("%v: the client is told %+v", tt.err, p)
			}
		}
	}
}

// Denials are counted, and the last one can be read.
func TestLastDenied(t *testing.T) {
	open := start(t, nil, broker.Limits{})
	s := open.listen(broker.Listener{Name: "yard", Rules: &ban{denied: []string{"publish no"}}, Auth: named{}})
	watch := open.connect(packet.V5, clean("watch"))
	watch.send(subscribe(1, filter("$SYS/broker/last_denied", 0)))
	watch.expect("SUBACK 1 [Success]")
	c := clean("a")
	c.Username, c.HasUsername = "anna", true
	w := s.connect(packet.V5, c)
	w.send(publish("no", "x", 0, 0))
	text, ok := strings.CutPrefix(watch.read(), "PUBLISH $SYS/broker/last_denied=")
	text, _, _ = strings.Cut(text, " q0")
	var last map[string]string
	if err := json.Unmarshal([]byte(text), &last); !ok || err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	delete(last, "at")
	want := map[string]string{"client": "a", "user": "anna", "listener": "yard", "from": "127.0.0.1", "action": "publish", "topic": "no", "reason": "test.rules:1: deny publish no"}
	if fmt.Sprint(last) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", last, want)
	}
}

// A rule cannot be asked about subscriptions while it is away.
type away struct{ gone, denies atomic.Bool }

func (a *away) Authorize(_ context.Context, _ *auth.Client, r auth.Request) auth.Verdict {
	switch {
	case r.Action == auth.Subscribe && a.gone.Load():
		return auth.Verdict{Rule: "away", Unsure: true}
	case r.Action == auth.Subscribe && a.denies.Load():
		return auth.Verdict{Rule: "denied"}
	}
	return auth.Verdict{Allowed: true, Rule: "allowed"}
}

// A client that returns while nobody can say whether it may have its subscriptions keeps them, and
// gets no new ones. It loses them when it is said that it may not.
func TestSubscriptionsWhileNobodyAnswers(t *testing.T) {
	rules := new(away)
	s := start(t, nil, broker.Limits{}).listen(broker.Listener{Name: "test", Rules: rules})
	w := s.connect(packet.V5, kept("c"))
	w.send(subscribe(1, filter("a", 1)))
	w.expect("SUBACK 1 [Granted QoS 1]")
	for _, tt := range []struct{ gone, denies, gets bool }{{true, true, true}, {false, false, true}, {false, true, false}} {
		w.send(&packet.Disconnect{})
		w.expect("closed")
		rules.gone.Store(tt.gone)
		rules.denies.Store(tt.denies)
		w = s.connect(packet.V5, kept("c"))
		if tt.gone {
			w.send(subscribe(2, filter("b", 1)))
			w.expect("SUBACK 2 [Not authorized]")
		}
		other := s.connect(packet.V5, clean("other"))
		other.send(publish("a", "x", 1, 3))
		if !tt.gets {
			other.expect("PUBACK 3 No matching subscribers")
			continue
		}
		other.expect("PUBACK 3")
		h, body := w.frame()
		p, err := w.dec.Publish(h.Flags, body)
		if err != nil || p.Topic != "a" {
			t.Fatalf("%+v: %+v, %v", tt, p, err)
		}
		w.send(&packet.Ack{Type: packet.PUBACK, ID: p.ID})
	}
}
