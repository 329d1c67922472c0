package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/packet"
)

// A doorman is a mechanism for tests: the client says NAME, is asked for as many words as there
// are rounds, and is let in as NAME. "no", "wrong", "banned", "busy" and "remembered" are refused, "wait" is asked for again
// when the test says so.
type doorman struct {
	rounds  int
	expires atomic.Int64 // nanoseconds
	super   atomic.Bool
	waiting chan struct{} // told that somebody waits
	resume  chan struct{}
}

func (*doorman) Name() string { return "DOOR" }

func (*doorman) Claim(data []byte) string { return string(data) }

func (d *doorman) Start(a auth.Attempt) auth.Exchange { return &talk{doorman: d, attempt: a} }

type talk struct {
	*doorman
	attempt auth.Attempt
	name    string
	n       int
}

func (t *talk) Next(ctx context.Context, data []byte) (auth.Step, error) {
	switch word := string(data); {
	case word == "no":
		return auth.Step{}, errors.New("no means no")
	case word == "wrong":
		return auth.Step{}, fmt.Errorf("wrong: %w", auth.ErrBadCredentials)
	case word == "banned":
		return auth.Step{}, fmt.Errorf("out: %w", auth.ErrBanned)
	case word == "busy":
		return auth.Step{}, fmt.Errorf("later: %w", auth.ErrUnavailable)
	case word == "remembered":
		return auth.Step{}, fmt.Errorf("%w, %w", auth.ErrUnavailable, auth.ErrBadCredentials)
	case word == "wait" && t.waiting != nil:
		t.waiting <- struct{}{}
		select {
		case <-t.resume:
		case <-ctx.Done():
			return auth.Step{}, ctx.Err()
		}
	}
	if t.n == 0 {
		t.name = string(data)
	}
	if t.n++; t.n <= t.rounds {
		return auth.Step{Data: fmt.Appendf(nil, "word %d", t.n)}, nil
	}
	id := auth.Identity{User: t.name, By: "door", Super: t.super.Load()}
	if expires := t.expires.Load(); expires > 0 {
		id.Expires = time.Now().Add(time.Duration(expires))
	}
	return auth.Step{Data: []byte("welcome " + t.attempt.ClientID), Done: true, Identity: id}, nil
}

// onlyPublish are the rules for all who are no super user.
type onlyPublish struct{}

func (onlyPublish) Authorize(_ context.Context, _ *auth.Client, r auth.Request) auth.Verdict {
	return auth.Verdict{Allowed: r.Action == auth.Publish, Rule: "only publish"}
}

// guarded runs a broker at whose door stands d.
func guarded(t *testing.T, d *doorman, limits broker.Limits) *site {
	t.Helper()
	return guardedBy(t, d, broker.Options{Limits: limits})
}

func guardedBy(t *testing.T, d *doorman, o broker.Options) *site {
	t.Helper()
	s := startWith(t, nil, o)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- s.server.Serve(ln, broker.Listener{Name: "door", Auth: auth.Anonymous{}, Rules: onlyPublish{}, Mechanisms: []auth.Mechanism{d}})
	}()
	t.Cleanup(func() {
		s.stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	s.address = ln.Addr().String()
	return s
}

// by is a CONNECT with the doorman's method.
func by(id, data string) packet.Connect {
	c := clean(id)
	c.Properties.HasAuthMethod, c.Properties.AuthMethod, c.Properties.AuthData = true, "DOOR", []byte(data)
	return c
}

func word(data string) *packet.Auth {
	return &packet.Auth{Reason: packet.ContinueAuthentication, Method: "DOOR", Data: []byte(data)}
}

func anew(data string) *packet.Auth {
	return &packet.Auth{Reason: packet.Reauthenticate, Method: "DOOR", Data: []byte(data)}
}

// enter connects in two rounds.
func (s *site) enter(id, user string) *wire {
	s.t.Helper()
	w := s.dial(packet.V5)
	c := by(id, user)
	w.send(&c)
	w.expect("AUTH Continue authentication DOOR word 1")
	w.send(word("x"))
	w.expect("CONNACK Success")
	return w
}

func TestEnhancedAuthentication(t *testing.T) {
	s := guarded(t, &doorman{rounds: 3}, broker.Limits{})
	w := s.dial(packet.V5)
	c := by("a", "alice")
	w.send(&c)
	for n := 1; n <= 3; n++ {
		w.expect(fmt.Sprintf("AUTH Continue authentication DOOR word %d", n))
		w.send(word("x"))
	}
	w.expect("CONNACK Success")
	if p := w.connack.Properties; p.AuthMethod != "DOOR" || string(p.AuthData) != "welcome a" {
		t.Errorf("CONNACK has %q and %q [MQTT-4.12.0-5]", p.AuthMethod, p.AuthData)
	}
	// Who asks for no method is the Authenticator's.
	s.connect(packet.V5, clean("b"))
}

// Each way in which an authentication can fail before CONNACK, and the answer.
func TestEnhancedRefusals(t *testing.T) {
	s := guarded(t, &doorman{rounds: 1}, broker.Limits{AuthRounds: 2, AuthBytes: 100})
	other := word("x")
	other.Method = "WINDOW"
	for _, tt := range []struct {
		name, first string
		answer      encoder
		want        string
	}{
		{"refused at once", "no", nil, "CONNACK Not authorized"},
		{"refused later", "alice", word("no"), "CONNACK Not authorized"},
		{"wrong password", "alice", word("wrong"), "CONNACK Not authorized"},
		{"banned", "alice", word("banned"), "CONNACK Banned"},
		{"nobody to ask", "alice", word("busy"), "CONNACK Server unavailable"},
		{"too much data at once", strings.Repeat("x", 101), nil, "CONNACK Quota exceeded"},
		{"too much data", "alice", word(strings.Repeat("x", 101)), "CONNACK Quota exceeded"},
		{"another method", "alice", other, "CONNACK Protocol Error"},
		{"re-authentication", "alice", anew("alice"), "CONNACK Protocol Error"},
		{"AUTH with Success", "alice", &packet.Auth{Method: "DOOR"}, "CONNACK Protocol Error"},
		{"an empty AUTH", "alice", &packet.Auth{}, "CONNACK Protocol Error"},
		{"PUBLISH", "alice", publish("a", "", 0, 0), "CONNACK Protocol Error"},
		{"SUBSCRIBE", "alice", subscribe(1, filter("a", 0)), "CONNACK Protocol Error"},
		{"PINGREQ", "alice", &packet.Ping{Type: packet.PINGREQ}, "CONNACK Protocol Error"},
		{"CONNECT", "alice", &packet.Connect{ClientID: "a"}, "CONNACK Protocol Error"},
		{"DISCONNECT", "alice", &packet.Disconnect{}, "closed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			here := *s
			here.t = t
			w := here.dial(packet.V5)
			c := by("a", tt.first)
			w.send(&c)
			if tt.answer != nil {
				w.expect("AUTH Continue authentication DOOR word 1")
				w.send(tt.answer)
			}
			w.expect(tt.want)
			if tt.want != "closed" {
				w.expect("closed")
			}
		})
	}
	c := by("a", "alice")
	c.Properties.AuthMethod = "WINDOW"
	w := s.dial(packet.V5)
	w.send(&c)
	w.expect("CONNACK Bad authentication method", "closed")
	// A client that takes less than the method needs: for an AUTH, and for the CONNACK.
	c = by("a", "alice")
	c.Properties.MaximumPacketSize = 19
	w = s.dial(packet.V5)
	w.send(&c)
	w.expect("CONNACK Packet too large", "closed")
	c.Properties.MaximumPacketSize = 25
	w = s.dial(packet.V5)
	w.send(&c)
	w.expect("AUTH Continue authentication DOOR word 1")
	w.send(word("x"))
	w.expect("CONNACK Packet too large", "closed")
}

func TestEnhancedLimits(t *testing.T) {
	s := guarded(t, &doorman{rounds: 1000}, broker.Limits{AuthRounds: 3})
	w := s.dial(packet.V5)
	c := by("a", "alice")
	w.send(&c, word("x"), word("x"), word("x"))
	w.expect("AUTH Continue authentication DOOR word 1", "AUTH Continue authentication DOOR word 2", "AUTH Continue authentication DOOR word 3", "CONNACK Quota exceeded", "closed")

	s = guarded(t, &doorman{rounds: 1}, broker.Limits{AuthTime: 700 * time.Millisecond})
	w = s.dial(packet.V5)
	w.send(&c)
	w.expect("AUTH Continue authentication DOOR word 1", "CONNACK Not authorized", "closed")
	w = s.enter("b", "bob")
	w.send(anew("bob"), word("x"))
	w.expect("AUTH Continue authentication DOOR word 1", "AUTH Success DOOR welcome b")
	if got := w.readWithin(900 * time.Millisecond); got != "nothing" {
		t.Errorf("got %q after an authentication that is over", got)
	}
	w.send(anew("bob"))
	w.expect("AUTH Continue authentication DOOR word 1", "DISCONNECT Not authorized", "closed")
}

// A list is a door that knows names.
type list struct{ met chan string }

func (list) Knock(netip.Addr) error { return nil }

func (list) Enter(a *auth.Attempt) error {
	if a.Username == "mallory" {
		return fmt.Errorf("on the list: %w", auth.ErrBanned)
	}
	return nil
}

func (l list) Met(a *auth.Attempt, _ *auth.Client, wrong bool) error {
	l.met <- fmt.Sprintf("%s %t", a.Username, wrong)
	return nil
}

// Who is kept out or held off by name is so by the name in the first message, before it is asked
// anything; a name in CONNECT itself comes first.
func TestClaimedUser(t *testing.T) {
	l := list{make(chan string, 1)} // one client at a time
	s := guardedBy(t, &doorman{rounds: 1}, broker.Options{Limits: broker.Limits{AuthBytes: 100}, Door: l})
	c := by("a", "mallory")
	w := s.dial(packet.V5)
	w.send(&c)
	w.expect("CONNACK Banned", "closed")
	for _, tt := range []struct{ name, first, second, met string }{
		{"", "alice", "x", "alice false"},
		{"", "alice", "no", "alice true"},
		{"bob", "mallory", "x", "bob false"},
		{"", strings.Repeat("x", 101), "", " false"},
	} {
		c := by("a", tt.first)
		c.HasUsername, c.Username = tt.name != "", tt.name
		w := s.dial(packet.V5)
		w.send(&c)
		if tt.second != "" {
			w.expect("AUTH Continue authentication DOOR word 1")
			w.send(word(tt.second))
		}
		if got := <-l.met; got != tt.met {
			t.Errorf("%.20q as %q: the door has met %q, want %q", tt.first, tt.name, got, tt.met)
		}
	}
}

// A client whose mechanism is slow waits alone.
func TestSlowMechanism(t *testing.T) {
	d := &doorman{rounds: 1, waiting: make(chan struct{}), resume: make(chan struct{})}
	s := guarded(t, d, broker.Limits{})
	w := s.dial(packet.V5)
	c := by("a", "wait")
	w.send(&c)
	<-d.waiting
	other := s.enter("b", "bob")
	other.send(&packet.Ping{Type: packet.PINGREQ})
	other.expect("PINGRESP")
	d.resume <- struct{}{}
	w.expect("AUTH Continue authentication DOOR word 1")
	// Neither does the gateway wait when it stops.
	w.send(word("wait"))
	<-d.waiting
	s.stop()
}

// A client authenticates again while messages flow in both directions.
func TestReauthentication(t *testing.T) {
	d := &doorman{rounds: 1}
	d.super.Store(true)
	s := guarded(t, d, broker.Limits{})
	w := s.enter("a", "alice")
	w.send(subscribe(1, filter("t", 1)))
	w.expect("SUBACK 1 [Granted QoS 1]")
	other := s.connect(packet.V5, clean("b"))
	for n := range 3 {
		w.send(anew("alice"))
		w.expect("AUTH Continue authentication DOOR word 1")
		other.send(publish("t", "x", 1, 7))
		other.expect("PUBACK 7")
		w.expect(fmt.Sprintf("PUBLISH t=x q1 id%d", n+1))
		w.send(publish("u", "x", 1, 8), &packet.Ping{Type: packet.PINGREQ}, word("x"))
		w.expect("PUBACK 8 No matching subscribers", "PINGRESP", "AUTH Success DOOR welcome a")
	}
}

// Each way in which a re-authentication can fail, and the answer.
func TestReauthenticationRefused(t *testing.T) {
	s := guarded(t, &doorman{rounds: 1}, broker.Limits{AuthRounds: 2, AuthBytes: 100})
	other := anew("alice")
	other.Method = "WINDOW"
	otherWord := word("x")
	otherWord.Method = "WINDOW"
	for _, tt := range []struct {
		name          string
		first, second encoder
		want          string
	}{
		{"refused at once", anew("no"), nil, "DISCONNECT Not authorized"},
		{"refused later", anew("alice"), word("no"), "DISCONNECT Not authorized"},
		{"banned", anew("alice"), word("banned"), "DISCONNECT Not authorized"},
		{"nobody to ask", anew("alice"), word("busy"), "DISCONNECT Not authorized"},
		{"another user", anew("bob"), word("x"), "DISCONNECT Not authorized"},
		{"another method", other, nil, "DISCONNECT Protocol Error"},
		{"another method later", anew("alice"), otherWord, "DISCONNECT Protocol Error"},
		{"no beginning", word("x"), nil, "DISCONNECT Protocol Error"},
		{"two beginnings", anew("alice"), anew("alice"), "DISCONNECT Protocol Error"},
		{"AUTH with Success", &packet.Auth{Method: "DOOR"}, nil, "DISCONNECT Protocol Error"},
		{"an empty AUTH", &packet.Auth{}, nil, "DISCONNECT Protocol Error"},
		{"too much data", anew(strings.Repeat("x", 101)), nil, "DISCONNECT Quota exceeded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			here := *s
			here.t = t
			w := here.enter("a", "alice")
			w.send(tt.first)
			if tt.second != nil {
				w.expect("AUTH Continue authentication DOOR word 1")
				w.send(tt.second)
			}
			w.expect(tt.want, "closed")
		})
	}
	w := s.connect(packet.V5, clean("a"))
	w.send(anew("alice"))
	w.expect("DISCONNECT Protocol Error", "closed")
	old := s.connect(packet.V311, clean("a"))
	old.send(anew("alice"))
	old.expect("closed")
}

// What a client showed last is what counts: when it expires, and what revokes it.
func TestReauthenticationReplaces(t *testing.T) {
	d := &doorman{rounds: 1}
	d.expires.Store(int64(time.Hour))
	s := guarded(t, d, broker.Limits{})
	w := s.enter("a", "alice")
	d.expires.Store(int64(time.Second))
	w.send(anew("alice"), word("x"))
	w.expect("AUTH Continue authentication DOOR word 1", "AUTH Success DOOR welcome a", "DISCONNECT Maximum connect time", "closed")

	w = s.enter("a", "alice") // it has a second
	d.expires.Store(0)
	w.send(anew("alice"), word("x"))
	w.expect("AUTH Continue authentication DOOR word 1", "AUTH Success DOOR welcome a")
	if got := w.readWithin(1200 * time.Millisecond); got != "nothing" {
		t.Errorf("got %q though the client has authenticated again", got)
	}
	n := s.server.Disconnect(func(c *auth.Client) bool { return c.User == "alice" && c.By == "door" && c.Expires.IsZero() }, packet.NotAuthorized)
	if n != 1 {
		t.Errorf("%d clients are revoked, want 1", n)
	}
	w.expect("DISCONNECT Not authorized", "closed")

	// Who may do less now keeps nothing of what it could do before.
	d.super.Store(true)
	w = s.enter("a", "alice")
	w.send(subscribe(1, filter("t", 0)))
	w.expect("SUBACK 1 [Success]")
	d.super.Store(false)
	w.send(anew("alice"), word("x"))
	w.expect("AUTH Continue authentication DOOR word 1", "AUTH Success DOOR welcome a")
	w.send(publish("t", "x", 1, 1))
	w.expect("PUBACK 1 No matching subscribers")
	w.send(subscribe(2, filter("t", 0)))
	w.expect("SUBACK 2 [Not authorized]")
}

// What is revoked while a client authenticates does not let it in.
func TestRevokedMeanwhile(t *testing.T) {
	d := &doorman{rounds: 1, waiting: make(chan struct{}), resume: make(chan struct{})}
	s := guarded(t, d, broker.Limits{})
	nobody := func(*auth.Client) bool { return false }
	w := s.dial(packet.V5)
	c := by("a", "alice")
	w.send(&c)
	w.expect("AUTH Continue authentication DOOR word 1")
	w.send(word("wait"))
	<-d.waiting
	s.server.Disconnect(nobody, packet.NotAuthorized)
	d.resume <- struct{}{}
	w.expect("CONNACK Server unavailable", "closed")
	w = s.enter("a", "alice")
	w.send(anew("alice"))
	w.expect("AUTH Continue authentication DOOR word 1")
	w.send(word("wait"))
	<-d.waiting
	s.server.Disconnect(nobody, packet.NotAuthorized)
	d.resume <- struct{}{}
	w.expect("DISCONNECT Not authorized", "closed")
}

// A latch is a porter who keeps everybody out from some time on.
type latch struct {
	porter
	shut atomic.Bool
}

func (l *latch) Enter(a *auth.Attempt) error {
	if l.shut.Load() {
		return fmt.Errorf("%w for 3 s", auth.ErrTooOften)
	}
	return l.porter.Enter(a)
}

// took returns what the door was told since the last call, once there is something.
func (l *latch) took(t *testing.T) (told []string) {
	t.Helper()
	eventually(t, "the door is told", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		told, l.met = l.met, nil
		return len(told) > 0
	})
	return told
}

// The door decides about each re-authentication, and is told once what became of it.
func TestReauthenticationAtTheDoor(t *testing.T) {
	door := new(latch)
	s := guardedBy(t, &doorman{rounds: 1}, broker.Options{Door: door})
	for _, tt := range []struct {
		name   string
		second encoder // nil: the connection is lost
		answer []string
		met    string
		wrong  int64
	}{
		{"right", word("x"), []string{"AUTH Success DOOR welcome a"}, "[alice true false]", 0},
		{"wrong", word("wrong"), []string{"DISCONNECT Not authorized", "closed"}, "[alice false true]", 1},
		{"refused", word("no"), []string{"DISCONNECT Not authorized", "closed"}, "[alice false true]", 1},
		{"not what was accepted before", word("remembered"), []string{"DISCONNECT Not authorized", "closed"}, "[alice false true]", 1},
		{"nobody decides", word("busy"), []string{"DISCONNECT Not authorized", "closed"}, "[alice false false]", 0},
		{"no answer", nil, nil, "[alice false false]", 0},
		{"not a word", anew("alice"), []string{"DISCONNECT Protocol Error", "closed"}, "[alice false false]", 0},
	} {
		w := s.enter("a", "alice")
		if got := fmt.Sprint(door.took(t)); got != "[alice true false]" {
			t.Fatalf("%s: at CONNECT the door was told %s", tt.name, got)
		}
		before := s.server.Stats().BadLogin.Load()
		w.send(anew("alice"))
		w.expect("AUTH Continue authentication DOOR word 1")
		if tt.second == nil {
			w.nc.Close()
		} else {
			w.send(tt.second)
			w.expect(tt.answer...)
		}
		if got := fmt.Sprint(door.took(t)); got != tt.met {
			t.Errorf("%s: the door was told %s, want %s", tt.name, got, tt.met)
		}
		if n := s.server.Stats().BadLogin.Load() - before; n != tt.wrong {
			t.Errorf("%s: %d bad logins, want %d", tt.name, n, tt.wrong)
		}
	}
	w := s.enter("a", "bob")
	door.took(t)
	w.send(anew("alice"))
	w.expect("AUTH Continue authentication DOOR word 1")
	w.send(word("x"))
	w.expect("DISCONNECT Not authorized", "closed")
	if got := fmt.Sprint(door.took(t)); got != "[bob false true]" {
		t.Errorf("another user: the door was told %s", got)
	}
	w = s.enter("a", "alice")
	door.took(t)
	door.shut.Store(true)
	w.send(anew("alice"))
	w.expect("DISCONNECT Not authorized", "closed")
	if n := s.server.Stats().HeldOff.Load(); n != 1 {
		t.Errorf("%d held off, want 1", n)
	}
}
