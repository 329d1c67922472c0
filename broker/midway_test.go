package broker_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// interrupted sends a packet, and returns when its work is interrupted. Nothing more of it is done until
// release is called.
func interrupted(t *testing.T, s *site, w *wire, p encoder) (release func()) {
	t.Helper()
	waiting, release := s.server.HoldTurns()
	w.send(p)
	for deadline := time.Now().Add(5 * time.Second); waiting() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			release()
			t.Fatal("it is done in one turn")
		}
	}
	return release
}

// Who takes a session over while a message of its client is on its way does not overtake that.
func TestTakeoverBehindMessage(t *testing.T) {
	const many = 2000 // a message for them takes several turns
	s := start(t, nil, broker.Limits{})
	var subscribers []*broker.Client
	for i := range many {
		c, err := s.server.Connect(broker.ClientOptions{ID: fmt.Sprint("s", i), CleanStart: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Subscribe(*subscribe(1, filter("t", 1))); err != nil {
			t.Fatal(err)
		}
		subscribers = append(subscribers, c)
	}
	w := s.connect(packet.V5, kept("p"))
	release := interrupted(t, s, w, publish("t", "old", 1, 1))
	published := make(chan error, 1)
	go func() {
		c, err := s.server.Connect(broker.ClientOptions{ID: "p", SessionExpiry: broker.Never})
		if err == nil {
			c.Publish(*publish("t", "new", 0, 0), nil)
		}
		published <- err
	}()
	w.expect("DISCONNECT " + packet.SessionTakenOver.String())
	release()
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	for i, c := range subscribers {
		for _, want := range []string{"old", "new"} {
			p, _, err := c.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if string(p.Payload) != want {
				t.Fatalf("subscriber %d gets %q, want %q", i, p.Payload, want)
			}
		}
	}
}

// What a client asked for on a connection that is interrupted in it does not come to its next session.
func TestTakeoverBehindSubscriptions(t *testing.T) {
	const many = 1000 // in one packet
	store := newMemory()
	t.Cleanup(store.close)
	s := start(t, store, broker.Limits{Subscriptions: many})
	w := s.connect(packet.V5, kept("c"))
	var filters []packet.Subscription
	for i := range many {
		filters = append(filters, filter(fmt.Sprint("a/", i), 0))
	}
	release := interrupted(t, s, w, subscribe(1, filters...))
	connected := make(chan error, 1)
	go func() {
		_, err := s.server.Connect(broker.ClientOptions{ID: "c", CleanStart: true, SessionExpiry: broker.Never})
		connected <- err
	}()
	w.expect("DISCONNECT " + packet.SessionTakenOver.String())
	release()
	if err := <-connected; err != nil {
		t.Fatal(err)
	}
	s.stop()
	s = start(t, store, broker.Limits{})
	c, err := s.server.Connect(broker.ClientOptions{ID: "c", SessionExpiry: broker.Never})
	if err != nil {
		t.Fatal(err)
	}
	if had := c.Subscriptions(); len(had) > 0 {
		t.Errorf("a new session has %d subscriptions of the one before: %s", len(had), strings.Join(had[:1], ""))
	}
}

// The repetition of a QoS 2 message by another connection is not answered while the first one has not come
// to the store [MQTT-4.3.3-10].
func TestTakeoverBehindStore(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	live, durable, pub := s.connect(packet.V5, clean("live")), s.connect(packet.V5, kept("durable")), s.connect(packet.V5, kept("pub"))
	live.send(subscribe(1, filter("t", 0)))
	live.expect("SUBACK 1…")
	durable.send(subscribe(1, filter("t", 2)))
	durable.expect("SUBACK 1…")
	s.store.crowd(true)
	defer s.store.crowd(false)
	p := publish("t", "x", 2, 1)
	pub.send(p)
	live.expect("PUBLISH t=x q0")
	again := s.dial(packet.V5)
	c := kept("pub")
	p.Dup = true
	again.send(&c, p)
	pub.expect("DISCONNECT " + packet.SessionTakenOver.String())
	if got := again.readWithin(200 * time.Millisecond); got != "nothing" {
		t.Errorf("%s, though the store has not taken the message", got)
	}
	s.store.crowd(false)
	again.expect("CONNACK Success present", "PUBREC 1")
	durable.expect("PUBLISH t=x q2 id1")
	durable.silent()
	live.silent()
}
