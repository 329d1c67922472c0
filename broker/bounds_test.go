package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
	"gateway/broker/session"
)

// eventually fails if a condition does not come to hold.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

// leave says DISCONNECT.
func (w *wire) leave() {
	w.t.Helper()
	w.send(&packet.Disconnect{})
	w.expect("closed")
}

// As many sessions as the network may have do not keep the gateway's own clients out.
func TestSessionLimitIsForTheNetwork(t *testing.T) {
	store := newMemory()
	t.Cleanup(store.close)
	s := start(t, store, broker.Limits{Sessions: 2})
	for _, id := range []string{"a", "b"} {
		s.connect(packet.V5, kept(id)).leave()
	}
	s.stop()
	s = start(t, store, broker.Limits{Sessions: 2})
	w := s.dial(packet.V5)
	c := kept("c")
	w.send(&c)
	w.expect("CONNACK " + packet.QuotaExceeded.String())
	own, err := s.server.Connect(broker.ClientOptions{ID: "$points", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	_ = own.Close()
}

// What waits in memory is bounded, whoever it waits for and whatever it is made of.
func TestQueueInMemoryIsBounded(t *testing.T) {
	s := start(t, nil, broker.Limits{QueueBytes: 100 << 10})
	own, err := s.server.Connect(broker.ClientOptions{ID: "$points", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if _, err := own.Subscribe(*subscribe(0, filter("own", 1))); err != nil {
		t.Fatal(err)
	}
	sub := s.connect(packet.V5, clean("sub"))
	sub.send(subscribe(1, filter("net", 1)))
	sub.expect("SUBACK…")
	pub := s.connect(packet.V5, clean("pub"))
	for _, topic := range []string{"own", "net"} {
		before := s.server.Stats().Dropped.Load()
		for id := range uint16(300) {
			p := publish(topic, "", 1, id+1)
			p.Properties = &packet.PublishProperties{User: []packet.UserProperty{{Name: "n", Value: strings.Repeat("v", 1<<10)}}}
			pub.send(p)
			pub.expect("PUBACK…")
		}
		if got := s.server.Stats().Dropped.Load() - before; got < 100 {
			t.Errorf("%s: of 300 KB %d messages were dropped, the limit is 100 KB", topic, got)
		}
	}
}

// A session that could not be stored ends with its connection, and its client is told so
// [MQTT-3.2.2-22].
func TestSessionThatCouldNotBegin(t *testing.T) {
	s := start(t, nil, broker.Limits{Sessions: 1})
	s.store.failWith(errors.New("no"))
	c := kept("c")
	w := s.dial(packet.V5)
	w.send(&c)
	h, body := w.frame()
	p, err := w.dec.Connack(body)
	if h.Type != packet.CONNACK || err != nil || !p.Properties.HasSessionExpiry || p.Properties.SessionExpiry != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	w.leave()
	s.store.failWith(nil)
	w = s.dial(packet.V5)
	w.send(&c)
	w.expect("CONNACK Success")
	if _, err := s.server.Connect(broker.ClientOptions{ID: "$own", SessionExpiry: broker.Never}); err != nil {
		t.Error(err)
	}
}

// A store that could be read only after a while: QoS 1 and 2 are refused until then, QoS 0 goes on, and
// then everything is as it was, but for sessions that their clients did not want any more.
func TestStoreComesLate(t *testing.T) {
	store := newMemory()
	t.Cleanup(store.close)
	s := start(t, store, broker.Limits{})
	for _, id := range []string{"kept", "ended", "returns"} {
		w := s.connect(packet.V5, kept(id))
		w.send(subscribe(1, filter("t", 1)))
		w.expect("SUBACK 1…")
		w.leave()
	}
	pub := s.connect(packet.V5, clean("pub"))
	pub.send(publish("t", "before", 1, 1))
	pub.expect("PUBACK 1")
	s.stop()

	store.hide(true)
	s = startWith(t, store, broker.Options{Absent: errors.New("nothing there")})
	stopgap := s.connect(packet.V5, kept("returns"))
	stopgap.send(subscribe(1, filter("t", 1)))
	stopgap.expect("SUBACK 1…")
	s.connect(packet.V5, clean("ended"))
	pub = s.connect(packet.V5, clean("pub"))
	pub.send(publish("t", "now", 0, 0), publish("t", "refused", 1, 1), publish("t", "refused", 2, 2))
	stopgap.expect("PUBLISH t=now q0")
	for _, answer := range []string{"PUBACK 1 ", "PUBREC 2 "} {
		pub.expect(answer + packet.ImplementationSpecificError.String())
	}
	store.hide(false)
	if err := s.server.Adopt(); err != nil {
		t.Fatal(err)
	}
	pub.send(publish("t", "after", 1, 3))
	pub.expect("PUBACK 3")
	for id, lines := range map[string][]string{
		"kept":    {"CONNACK Success present", "PUBLISH t=before q1 id1", "PUBLISH t=after q1 id2"},
		"returns": {"CONNACK Success present", "PUBLISH t=before q1 id1", "PUBLISH t=after q1 id2"},
		"ended":   {"CONNACK Success"},
	} {
		w, c := s.dial(packet.V5), kept(id)
		w.send(&c)
		w.expect(lines...)
		w.silent()
	}
}

// A will that is no longer the client's is forgotten durably before CONNACK.
func TestWillIsTakenBackBeforeConnack(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	c := kept("c")
	c.Will = &packet.Will{Topic: "will", Delay: 100}
	s.connect(packet.V5, c)
	s.store.pause(true)
	w := s.dial(packet.V5)
	c.Will = nil
	w.send(&c)
	if got := w.readWithin(100 * time.Millisecond); got != "nothing" {
		t.Fatalf("%s before the commit", got)
	}
	s.store.pause(false)
	w.expect("CONNACK Success present")
}

// A session whose will finds no room ends all the same.
func TestSessionEndsThoughItsWillFindsNoRoom(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	sub := s.connect(packet.V5, kept("sub"))
	sub.send(subscribe(1, filter("will", 1)))
	sub.expect("SUBACK…")
	c := kept("c")
	c.Will = &packet.Will{Topic: "will", QoS: 1}
	w := s.connect(packet.V5, c)
	s.store.failWith(session.ErrFull)
	w.send(&packet.Disconnect{Reason: packet.DisconnectWithWill, HasSessionExpiry: true})
	w.expect("closed")
	eventually(t, "the session is gone", func() bool {
		s.store.mu.Lock()
		defer s.store.mu.Unlock()
		return s.store.sessions["c"] == nil
	})
}

// 3.1.2.11.2: the expiry of a session counts from the end of its connection, which at the latest
// was the end of the gateway.
func TestExpiryCountsFromPowerCut(t *testing.T) {
	store := newMemory()
	t.Cleanup(store.close)
	m := &session.Opened{Client: "c", Expiry: 100}
	store.Submit([]session.Change{m}, false, nil)
	start(t, store, broker.Limits{})
	eventually(t, "the session is closed", func() bool {
		store.mu.Lock()
		defer store.mu.Unlock()
		return store.sessions["c"].closed != nil
	})
}

// Every message is delivered, queued or counted as dropped, also when sessions end.
func TestBooksOfSessionsThatEnd(t *testing.T) {
	for _, connect := range []func(string) packet.Connect{clean, kept} {
		s := start(t, nil, broker.Limits{Inflight: 2})
		sub := s.connect(packet.V5, connect("sub"))
		sub.send(subscribe(1, filter("d", 2)))
		sub.expect("SUBACK…")
		pub := s.connect(packet.V5, clean("pub"))
		for id := range uint16(200) {
			pub.send(publish("d", fmt.Sprint(id), 2, id+1))
			pub.expect("PUBREC…")
		}
		sub.expect("PUBLISH…", "PUBLISH…")
		sub.send(ack(packet.PUBREC, 1)) // delivered, though not to the end
		sub.expect("PUBREL 1")
		s.connect(packet.V5, clean("sub"))
		eventually(t, "199 are dropped", func() bool { return s.server.Stats().Dropped.Load() == 199 })
	}
}

// What waits for a client that is away is in the store and not in memory.
func TestAwayClientsCostNoMemory(t *testing.T) {
	s := start(t, nil, broker.Limits{Inflight: 2})
	sub := s.connect(packet.V5, kept("sub"))
	sub.send(subscribe(1, filter("d", 1)))
	sub.expect("SUBACK…")
	pub := s.connect(packet.V5, clean("pub"))
	post := func(from, to int) {
		for i := from; i <= to; i++ {
			pub.send(publish("d", fmt.Sprint(i), 1, uint16(i)))
			pub.expect("PUBACK…")
		}
	}
	post(1, 10)
	sub.expect("PUBLISH d=1 q1 id1", "PUBLISH d=2 q1 id2")
	sub.leave()
	post(11, 20)
	sub = s.again(packet.V5, kept("sub"))
	for i := range uint16(20) {
		sub.expect(fmt.Sprintf("PUBLISH d=%d q1 id%d…", i+1, i+1))
		sub.send(ack(packet.PUBACK, i+1))
	}
	sub.silent()
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	if s.store.reads == 0 {
		t.Error("all of it was in memory")
	}
}

// [MQTT-3.10.4-4]: UNSUBACK tells that the subscription is gone, after a restart too. Where it has no
// room for a failure the connection ends.
func TestUnsubscribeThatCouldNotBeStored(t *testing.T) {
	eachVersion(t, func(t *testing.T, v packet.Version) {
		s := start(t, nil, broker.Limits{})
		w := s.connect(v, kept("c"))
		w.send(subscribe(1, filter("d", 1)))
		w.expect("SUBACK…")
		s.store.failWith(errors.New("no"))
		w.send(&packet.Unsubscribe{ID: 2, Filters: []string{"d"}})
		if v == packet.V5 {
			w.expect("UNSUBACK 2 [" + packet.ImplementationSpecificError.String() + "]")
		} else {
			w.expect("closed")
		}
	})
}

// A client in the process may publish what an acknowledgement leads to.
func TestPublishWithinDone(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	c, err := s.server.Connect(broker.ClientOptions{ID: "$c", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := make(chan struct{})
	go c.Publish(packet.Publish{Topic: "a", QoS: 1}, func(packet.ReasonCode) {
		c.Publish(packet.Publish{Topic: "b", QoS: 1, Retain: true, Payload: []byte("x")}, func(packet.ReasonCode) { close(done) })
	})
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("it waits for itself")
	}
}
