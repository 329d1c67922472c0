package broker_test

import (
	"context"
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

// A grant allows everything but the filters that it has taken away, and has no rules for what is received.
type grant struct {
	mu    sync.Mutex
	taken []string
}

func (g *grant) take(filters ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.taken = filters
}

func (g *grant) Authorize(_ context.Context, _ *auth.Client, r auth.Request) auth.Verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	taken := r.Action == auth.Subscribe && slices.ContainsFunc(g.taken, func(f string) bool {
		return r.Topic == f || strings.HasSuffix(f, "/#") && strings.HasPrefix(r.Topic, strings.TrimSuffix(f, "#"))
	})
	return auth.Verdict{Allowed: !taken, Rule: "grant"}
}

// What was queued for a client by a subscription that it may not have any more does not reach it: not what
// came while it was away, before a restart or after it, nor what was sent and not acknowledged. What it may
// have of another subscription, or might subscribe to, does.
func TestWithdrawnMessages(t *testing.T) {
	for _, restart := range []bool{false, true} {
		store := newMemory()
		t.Cleanup(store.close)
		rules := &grant{}
		open := start(t, store, broker.Limits{})
		s := open.listen(broker.Listener{Name: "test", Rules: rules})
		w := s.connect(packet.V5, kept("a"))
		w.send(subscribe(1, filter("secret/#", 2), filter("pub", 1), filter("other", 1), filter("+/both", 1)))
		w.expect("SUBACK 1…")
		send := func(body string) {
			t.Helper()
			p := open.connect(packet.V5, clean("p"))
			for i, topic := range []string{"secret/x", "pub", "other", "secret/both"} {
				p.send(publish(topic, body, 1, uint16(i+1)))
				p.expect("PUBACK…")
			}
			p.send(&packet.Disconnect{})
			p.expect("closed")
		}
		send("sent")
		w.expect("PUBLISH secret/x=sent q1 id1", "PUBLISH pub=sent q1 id2", "PUBLISH other=sent q1 id3", "PUBLISH secret/both=sent q1 id4")
		p := open.connect(packet.V5, clean("two"))
		p.send(publish("secret/two", "x", 2, 1))
		p.expect("PUBREC 1")
		w.expect("PUBLISH secret/two=x q2 id5")
		w.send(&packet.Unsubscribe{ID: 2, Filters: []string{"other"}})
		w.expect("UNSUBACK 2…")
		w.send(&packet.Disconnect{})
		w.expect("closed")
		send("away")
		if restart {
			s.stop()
			open = start(t, store, broker.Limits{})
			s = open.listen(broker.Listener{Name: "test", Rules: rules})
		}
		rules.take("secret/#")
		send("after")
		w = s.again(packet.V5, kept("a"))
		// What was sent at QoS 2 is completed [MQTT-4.3.3-7]. After a restart all may have been sent.
		for _, want := range []string{"pub=sent q1 id2", "other=sent q1 id3", "secret/both=sent q1 id4", "secret/two=x q2 id5",
			"pub=away q1 id7", "secret/both=away q1 id8", "pub=after q1 id10", "secret/both=after q1 id11"} {
			if got := strings.TrimSuffix(w.read(), " dup"); got != "PUBLISH "+want {
				t.Fatalf("restart %t: got %s, want %s", restart, got, want)
			}
		}
		w.send(ack(packet.PUBACK, 2))
		w.silent()
		w.send(&packet.Disconnect{})
		w.expect("closed")

		// A restart in between changes nothing: the subscription is gone, the right is still not there.
		s.stop()
		open = start(t, store, broker.Limits{})
		s = open.listen(broker.Listener{Name: "test", Rules: rules})
		w = s.again(packet.V5, kept("a"))
		w.expect("PUBLISH other=sent q1 id3 dup")
		w.send(ack(packet.PUBACK, 3))
	}
}

// A session in which the client shows that it is less than before loses what waits for it by then.
func TestWithdrawnInASession(t *testing.T) {
	d := &doorman{}
	d.super.Store(true)
	rules := &grant{}
	rules.take("secret")
	open := start(t, nil, broker.Limits{})
	s := open.listen(broker.Listener{Name: "door", Auth: auth.Anonymous{}, Rules: rules, Mechanisms: []auth.Mechanism{d}})
	for _, durable := range []bool{false, true} {
		d.super.Store(true)
		c := by("a", "ann")
		c.Properties.ReceiveMaximum = 1
		if durable {
			c.Properties.HasSessionExpiry, c.Properties.SessionExpiry = true, 60
		}
		w := s.connect(packet.V5, c)
		w.send(subscribe(1, filter("secret", 1), filter("open", 1)))
		w.expect("SUBACK 1…")
		p := open.connect(packet.V5, clean("p"))
		for i, topic := range []string{"secret", "secret", "secret", "open"} {
			p.send(publish(topic, "x", 1, uint16(i+1)))
			p.expect("PUBACK…")
		}
		w.expect("PUBLISH secret=x q1 id1")
		d.super.Store(false)
		w.send(&packet.Auth{Reason: packet.Reauthenticate, Method: "DOOR", Data: []byte("ann")})
		w.expect("AUTH Success…")
		w.send(ack(packet.PUBACK, 1))
		w.expect("PUBLISH open=x q1 id4")
		w.send(&packet.Disconnect{})
		w.expect("closed")
	}
}

// gated rules let those wait who ask about subscriptions, from the third question on.
type gated struct {
	grant
	armed atomic.Bool
	n     atomic.Int64
	block chan struct{}
}

func (g *gated) Authorize(ctx context.Context, c *auth.Client, r auth.Request) auth.Verdict {
	if r.Action == auth.Subscribe && g.armed.Load() && g.n.Add(1) > 2 {
		select {
		case <-g.block:
		case <-ctx.Done():
		}
	}
	return g.grant.Authorize(ctx, c, r)
}

// While a client that authenticates again is asked about, it gets nothing of what it may not have any more.
func TestReauthenticationDelaysTheQueue(t *testing.T) {
	d := &doorman{}
	rules := &gated{block: make(chan struct{})}
	open := start(t, nil, broker.Limits{})
	s := open.listen(broker.Listener{Name: "door", Auth: auth.Anonymous{}, Rules: rules, Mechanisms: []auth.Mechanism{d}})
	c := by("a", "ann")
	c.CleanStart = false
	c.Properties.HasSessionExpiry, c.Properties.SessionExpiry = true, 60
	w := s.connect(packet.V5, c)
	w.send(subscribe(1, filter("secret", 1), filter("open", 1)))
	w.expect("SUBACK 1…")
	w.leave()
	p := open.connect(packet.V5, clean("p"))
	p.send(publish("secret", "x", 1, 1))
	p.expect("PUBACK…")
	rules.take("secret")
	rules.armed.Store(true)
	w = s.again(packet.V5, c)
	eventually(t, "asked", func() bool { return rules.n.Load() == 3 })
	w.silent()
	w.send(&packet.Auth{Reason: packet.Reauthenticate, Method: "DOOR", Data: []byte("ann")})
	eventually(t, "asked again", func() bool { return rules.n.Load() == 4 })
	p.send(publish("open", "y", 1, 2))
	if got := w.readWithin(100 * time.Millisecond); strings.Contains(got, "secret") {
		t.Errorf("it gets %s", got)
	}
	close(rules.block)
}
