package broker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
	"gateway/broker/session"
)

var versions = []packet.Version{packet.V311, packet.V5}

func eachVersion(t *testing.T, f func(t *testing.T, v packet.Version)) {
	for _, v := range versions {
		t.Run(fmt.Sprintf("level%d", v), func(t *testing.T) { f(t, v) })
	}
}

// [MQTT-4.3.1-1], [MQTT-4.3.2-1..5], [MQTT-4.3.3-1..13]
func TestDelivery(t *testing.T) {
	eachVersion(t, func(t *testing.T, v packet.Version) {
		s := start(t, nil, broker.Limits{})
		sub := s.connect(v, clean("sub"))
		sub.send(subscribe(1, filter("a/+", 2)))
		sub.expect("SUBACK 1 [" + packet.GrantedQoS2.String() + "]")
		pub := s.connect(v, clean("pub"))
		pub.send(publish("a/0", "zero", 0, 0), publish("a/1", "one", 1, 7), publish("a/2", "two", 2, 8))
		pub.expect("PUBACK 7", "PUBREC 8")
		pub.send(ack(packet.PUBREL, 8))
		pub.expect("PUBCOMP 8")
		sub.expect("PUBLISH a/0=zero q0", "PUBLISH a/1=one q1 id1", "PUBLISH a/2=two q2 id2")
		sub.send(ack(packet.PUBACK, 1), ack(packet.PUBREC, 2))
		sub.expect("PUBREL 2")
		sub.send(ack(packet.PUBCOMP, 2))
		sub.silent()
	})
}

// An acknowledgement is a fact: nothing leaves while the commit is not done.
func TestAcknowledgementWaitsForCommit(t *testing.T) {
	eachVersion(t, func(t *testing.T, v packet.Version) {
		s := start(t, nil, broker.Limits{})
		sub := s.connect(v, kept("sub"))
		sub.send(subscribe(1, filter("d", 2)))
		sub.expect("SUBACK 1…")
		pub := s.connect(v, kept("pub"))

		s.store.pause(true)
		pub.send(publish("d", "1", 1, 1), publish("other", "x", 1, 2), publish("d", "2", 2, 3))
		pub.silent()
		sub.silent()
		s.store.pause(false)
		pub.expect("PUBACK 1")
		if v == packet.V5 {
			pub.expect("PUBACK 2 " + packet.NoMatchingSubscribers.String())
		} else {
			pub.expect("PUBACK 2")
		}
		pub.expect("PUBREC 3")
		sub.expect("PUBLISH d=1 q1 id1", "PUBLISH d=2 q2 id2")

		s.store.pause(true)
		pub.send(ack(packet.PUBREL, 3))
		sub.send(ack(packet.PUBREC, 2))
		pub.silent()
		sub.silent()
		s.store.pause(false)
		pub.expect("PUBCOMP 3")
		sub.expect("PUBREL 2")
	})
}

// [MQTT-4.3.3-10]: a repetition is acknowledged, and delivered once; across a restart too.
func TestExactlyOnceAcrossRestart(t *testing.T) {
	store := newMemory()
	t.Cleanup(store.close)
	s := start(t, store, broker.Limits{})
	sub := s.connect(packet.V5, kept("sub"))
	sub.send(subscribe(1, filter("d", 2)))
	sub.expect("SUBACK 1…")
	pub := s.connect(packet.V5, kept("pub"))
	pub.send(publish("d", "once", 2, 9))
	pub.expect("PUBREC 9")
	sub.expect("PUBLISH d=once q2 id1")
	sub.send(ack(packet.PUBREC, 1))
	sub.expect("PUBREL 1")
	s.stop()

	s = start(t, store, broker.Limits{})
	pub = s.dial(packet.V5)
	c := kept("pub")
	pub.send(&c)
	pub.expect("CONNACK Success present")
	again := publish("d", "once", 2, 9)
	again.Dup = true
	pub.send(again)
	pub.expect("PUBREC 9")
	pub.send(ack(packet.PUBREL, 9))
	pub.expect("PUBCOMP 9")
	sub = s.dial(packet.V5)
	c = kept("sub")
	sub.send(&c)
	sub.expect("CONNACK Success present", "PUBREL 1")
	sub.send(ack(packet.PUBCOMP, 1))
	sub.silent()
	pub.send(publish("d", "next", 2, 9))
	pub.expect("PUBREC 9")
	sub.expect("PUBLISH d=next q2 id2")
}

// [MQTT-4.4.0-1], [MQTT-4.6.0-1], [MQTT-3.3.1-1]: what is unacknowledged comes again, in order.
func TestResume(t *testing.T) {
	eachVersion(t, func(t *testing.T, v packet.Version) {
		s := start(t, nil, broker.Limits{Inflight: 3})
		sub := s.connect(v, kept("sub"))
		sub.send(subscribe(1, filter("d", 2)))
		sub.expect("SUBACK 1…")
		pub := s.connect(v, clean("pub"))
		for i := range 5 {
			pub.send(publish("d", fmt.Sprint(i), packet.QoS(1+i%2), uint16(i+1)))
		}
		sub.expect("PUBLISH d=0 q1 id1", "PUBLISH d=1 q2 id2", "PUBLISH d=2 q1 id3")
		sub.send(ack(packet.PUBREC, 2), ack(packet.PUBACK, 3))
		sub.expect("PUBREL 2")
		sub.silent()
		_ = sub.nc.Close()

		sub = s.dial(v)
		c := kept("sub")
		sub.send(&c)
		sub.expect("CONNACK Success present", "PUBLISH d=0 q1 id1 dup", "PUBREL 2")
		sub.silent()
		sub.send(ack(packet.PUBACK, 1), ack(packet.PUBCOMP, 2))
		sub.expect("PUBLISH d=3 q2 id4", "PUBLISH d=4 q1 id5")
	})
}

// A long queue is read from the store in parts, and none is missing or twice.
func TestLongQueue(t *testing.T) {
	store := newMemory()
	t.Cleanup(store.close)
	s := start(t, store, broker.Limits{})
	sub := s.connect(packet.V5, kept("sub"))
	sub.send(subscribe(1, filter("d", 1)))
	sub.expect("SUBACK 1…")
	sub.send(&packet.Disconnect{})
	sub.expect("closed")
	pub := s.connect(packet.V5, clean("pub"))
	const n = 1000
	for i := range n {
		pub.send(publish("d", fmt.Sprint(i), 1, uint16(i+1)))
		if i%100 == 99 {
			for j := i - 99; j <= i; j++ {
				pub.expect(fmt.Sprintf("PUBACK %d", j+1))
			}
		}
	}
	for _, restart := range []bool{false, true} {
		if restart {
			s.stop()
			s = start(t, store, broker.Limits{})
		}
		sub = s.dial(packet.V5)
		c := kept("sub")
		sub.send(&c)
		sub.expect("CONNACK Success present")
		from, to := 0, n/2
		if restart {
			from, to = n/2, n
		}
		for i := from; i < to; i++ {
			sub.expect(fmt.Sprintf("PUBLISH d=%d q1 id%d…", i, i+1))
			sub.send(ack(packet.PUBACK, uint16(i+1)))
		}
		sub.send(&packet.Disconnect{})
		for got := ""; got != "closed"; got = sub.read() {
		}
	}
}

// [MQTT-3.3.1-5..12], 3.8.3.1
func TestRetained(t *testing.T) {
	eachVersion(t, func(t *testing.T, v packet.Version) {
		store := newMemory()
		t.Cleanup(store.close)
		s := start(t, store, broker.Limits{})
		pub := s.connect(v, clean("pub"))
		for i, p := range []*packet.Publish{publish("r/a", "1", 1, 1), publish("r/b", "2", 0, 0), publish("r/a", "3", 1, 2), publish("r/c", "4", 1, 3), publish("r/c", "", 1, 4)} {
			p.Retain = true
			pub.send(p)
			if p.QoS > 0 {
				if got := pub.read(); got == "closed" || got == "nothing" {
					t.Fatalf("publish %d: %s", i, got)
				}
			}
		}
		check := func(s *site) {
			t.Helper()
			sub := s.connect(v, clean("sub"))
			sub.send(subscribe(1, filter("r/a", 1)))
			sub.expect("SUBACK 1…", "PUBLISH r/a=3 q1 id1 retain")
			sub.send(subscribe(2, filter("r/b", 0), filter("r/c", 1)))
			sub.expect("SUBACK 2…", "PUBLISH r/b=2 q0 retain")
			sub.silent()
			pub := s.connect(v, clean("pub2"))
			p := publish("r/b", "live", 0, 0)
			p.Retain = true
			pub.send(p)
			sub.expect("PUBLISH r/b=live q0")
			p.Payload = []byte("2")
			pub.send(p)
			sub.expect("PUBLISH r/b=2 q0")
			pub.silent()
		}
		check(s)
		s.stop()
		check(start(t, store, broker.Limits{}))
	})
}

// [MQTT-3.3.1-10], [MQTT-3.3.1-11], [MQTT-3.8.3-3], [MQTT-3.3.4-3]
func TestSubscriptionOptions(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	w := s.connect(packet.V5, clean("w"))
	kept := publish("r", "old", 0, 0)
	kept.Retain = true
	pub := s.connect(packet.V5, clean("pub"))
	pub.send(kept)
	pub.silent()

	w.send(subscribe(1, packet.Subscription{Filter: "r", RetainHandling: 2}))
	w.expect("SUBACK 1…")
	w.send(subscribe(2, packet.Subscription{Filter: "r", RetainHandling: 1}))
	w.expect("SUBACK 2…")
	w.silent()
	w.send(&packet.Unsubscribe{ID: 3, Filters: []string{"r", "never"}})
	w.expect("UNSUBACK 3 [Success No subscription existed]")
	w.send(subscribe(4, packet.Subscription{Filter: "r", RetainHandling: 1, NoLocal: true}))
	w.expect("SUBACK 4…", "PUBLISH r=old q0 retain")
	w.send(publish("r", "own", 0, 0))
	w.silent()

	w.send(&packet.Subscribe{ID: 5, SubscriptionID: 10, Filters: []packet.Subscription{{Filter: "m/#", QoS: 1, RetainAsPublished: true}}})
	w.send(&packet.Subscribe{ID: 6, SubscriptionID: 11, Filters: []packet.Subscription{{Filter: "m/+", QoS: 2}}})
	w.expect("SUBACK 5…", "SUBACK 6…")
	p := publish("m/x", "v", 2, 1)
	p.Retain = true
	p.Properties = &packet.PublishProperties{User: []packet.UserProperty{{Name: "b", Value: "2"}, {Name: "a", Value: "1"}}}
	w.send(p)
	got := []string{w.read(), w.read()}
	want := "PUBLISH m/x=v q2 id1 retain sub[10 11] b:2 a:1"
	other := "PUBLISH m/x=v q2 id1 retain sub[11 10] b:2 a:1"
	if !(got[0] == want || got[0] == other || got[1] == want || got[1] == other) {
		t.Errorf("got %q, want %q among them", got, want)
	}
}

// [MQTT-3.1.4-3], [MQTT-3.2.2-2..3], [MQTT-3.1.2-4..6]
func TestTakeover(t *testing.T) {
	eachVersion(t, func(t *testing.T, v packet.Version) {
		s := start(t, nil, broker.Limits{})
		watch := s.connect(v, clean("watch"))
		watch.send(subscribe(1, filter("will/#", 0)))
		watch.expect("SUBACK 1…")
		c := kept("c")
		c.Will = &packet.Will{Topic: "will/c", Payload: []byte("gone")}
		first := s.connect(v, c)
		first.send(subscribe(1, filter("d", 1)))
		first.expect("SUBACK 1…")
		second := s.dial(v)
		c.Will = nil
		second.send(&c)
		second.expect("CONNACK Success present")
		if v == packet.V5 {
			first.expect("DISCONNECT " + packet.SessionTakenOver.String())
		}
		first.expect("closed")
		watch.expect("PUBLISH will/c=gone q0")

		c.CleanStart = true
		third := s.dial(v)
		third.send(&c)
		third.expect("CONNACK Success")
		third.send(publish("d", "x", 0, 0))
		third.silent()
	})
}

// [MQTT-3.1.2-8], [MQTT-3.1.2-10], [MQTT-3.1.3-9], [MQTT-3.14.4-3]
func TestWill(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	watch := s.connect(packet.V5, clean("watch"))
	watch.send(subscribe(1, filter("will/#", 1)))
	watch.expect("SUBACK 1…")
	with := func(id string, delay uint32) packet.Connect {
		c := kept(id)
		c.Will = &packet.Will{Topic: "will/" + id, Payload: []byte("gone"), QoS: 1, Delay: delay}
		return c
	}
	a := s.connect(packet.V5, with("a", 0))
	a.send(&packet.Disconnect{})
	a.expect("closed")
	watch.silent()

	b := s.connect(packet.V5, with("b", 0))
	b.send(&packet.Disconnect{Reason: packet.DisconnectWithWill})
	watch.expect("PUBLISH will/b=gone q1 id1")

	c := s.connect(packet.V5, with("c", 1))
	_ = c.nc.Close()
	again := with("c", 1)
	c = s.dial(packet.V5)
	c.send(&again)
	c.expect("CONNACK Success present")
	_ = c.nc.Close()
	begin := time.Now()
	watch.expect("PUBLISH will/c=gone q1 id2")
	if d := time.Since(begin); d < 800*time.Millisecond || d > 3*time.Second {
		t.Errorf("will came after %v, want its delay of 1 s", d)
	}

	// The session ends before the delay is over [MQTT-3.1.3-9].
	d := with("d", 3600)
	d.Properties.SessionExpiry = 1
	w := s.connect(packet.V5, d)
	_ = w.nc.Close()
	watch.expect("PUBLISH will/d=gone q1 id3")
}

// The will of a client that was connected when the power went is published after the restart.
func TestWillSurvivesRestart(t *testing.T) {
	store := newMemory()
	t.Cleanup(store.close)
	s := start(t, store, broker.Limits{})
	watch := s.connect(packet.V5, kept("watch"))
	watch.send(subscribe(1, filter("will/#", 1)))
	watch.expect("SUBACK 1…")
	c := kept("c")
	c.Will = &packet.Will{Topic: "will/c", Payload: []byte("gone"), QoS: 1}
	s.connect(packet.V5, c)
	s.stop()
	for range 2 {
		s = start(t, store, broker.Limits{})
		s.stop()
	}
	s = start(t, store, broker.Limits{})
	watch = s.dial(packet.V5)
	again := kept("watch")
	watch.send(&again)
	watch.expect("CONNACK Success present", "PUBLISH will/c=gone q1 id1…")
	watch.send(ack(packet.PUBACK, 1))
	watch.silent()
}

// 3.1.2.11.2, [MQTT-3.1.2-23], 3.14.2.2.2
func TestSessionExpiry(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	c := kept("c")
	c.Properties.SessionExpiry = 1
	w := s.connect(packet.V5, c)
	w.send(subscribe(1, filter("d", 1)))
	w.expect("SUBACK 1…")
	_ = w.nc.Close()
	deadline := time.Now().Add(10 * time.Second)
	for {
		s.store.mu.Lock()
		n := len(s.store.sessions)
		s.store.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the session is still there")
		}
		time.Sleep(10 * time.Millisecond)
	}
	w = s.connect(packet.V5, c)
	w.send(&packet.Disconnect{HasSessionExpiry: true, SessionExpiry: 0})
	w.expect("closed")
	w = s.dial(packet.V5)
	w.send(&c)
	w.expect("CONNACK Success")

	z := s.connect(packet.V5, clean("z"))
	z.send(&packet.Disconnect{HasSessionExpiry: true, SessionExpiry: 5})
	z.expect("DISCONNECT "+packet.ProtocolError.String(), "closed")
}

// [MQTT-3.1.2-22]: 1.5 times the keep alive, counted from the last whole packet.
func TestKeepAlive(t *testing.T) {
	eachVersion(t, func(t *testing.T, v packet.Version) {
		s := start(t, nil, broker.Limits{})
		c := clean("c")
		c.KeepAlive = 1
		w := s.connect(v, c)
		begin := time.Now()
		w.raw([]byte{0x30}) // the beginning of a packet is no sign of life
		if v == packet.V5 {
			w.expect("DISCONNECT " + packet.KeepAliveTimeout.String())
		}
		w.expect("closed")
		if d := time.Since(begin); d < 1400*time.Millisecond || d > 8*time.Second {
			t.Errorf("closed after %v, want 1.5 s, and not much more on a busy machine", d)
		}
	})
}

// Bad input costs its sender the connection, and tells 5.0 clients why.
func TestBadInput(t *testing.T) {
	for _, tt := range []struct {
		clause string
		bytes  string
		reason packet.ReasonCode
	}{
		{"MQTT-3.1.0-2", "10 0f 00 04 4d51 5454 05 02 0000 00 0002 7878", packet.ProtocolError},
		{"MQTT-2.1.3-1", "c1 00", packet.MalformedPacket},
		{"MQTT-3.3.1-4", "36 03 00 01 61", packet.MalformedPacket},
		{"MQTT-3.3.2-2", "30 04 00 01 23 00", packet.TopicNameInvalid},
		{"MQTT-3.8.3-2", "82 03 00 01 00", packet.ProtocolError},
		{"MQTT-2.2.1-3", "32 06 00 01 61 00 00 00", packet.ProtocolError},
		{"2.1.4", "30 ff ff ff ff 01", packet.MalformedPacket},
		{"MQTT-3.1.2-24", "30 ff ff ff 7f", packet.PacketTooLarge},
		{"MQTT-4.12.0-1", "f0 00", packet.ProtocolError},
		{"MQTT-3.2.2-18", "30 07 00 01 61 03 23 00 ff", packet.TopicAliasInvalid},
	} {
		t.Run(tt.clause, func(t *testing.T) {
			s := start(t, nil, broker.Limits{})
			good := s.connect(packet.V5, clean("good"))
			w := s.connect(packet.V5, clean("bad"))
			w.hex(tt.bytes)
			w.expect("DISCONNECT "+tt.reason.String(), "closed")
			good.silent()
			old := s.connect(packet.V311, clean("old"))
			if tt.clause != "MQTT-3.2.2-18" { // valid before 5.0
				old.hex(tt.bytes)
				old.expect("closed")
			}
		})
	}
}

// [MQTT-3.1.0-1], [MQTT-3.1.2-2], 3.1.1 MQTT-3.1.3-8, MQTT-4.12.0-1
func TestRefusedConnect(t *testing.T) {
	s := start(t, nil, broker.Limits{ConnectTime: 300 * time.Millisecond})
	w := s.dial(packet.V5)
	w.hex("c0 00")
	w.expect("closed")

	w = s.dial(packet.V311)
	w.hex("10 0c 00 04 4d51 5454 06 02 0000 0000")
	w.expect("CONNACK "+packet.UnsupportedProtocolVersion.String(), "closed")

	w = s.dial(packet.V311)
	w.send(&packet.Connect{})
	w.expect("CONNACK "+packet.ClientIDNotValid.String(), "closed")

	w = s.dial(packet.V5)
	w.send(&packet.Connect{CleanStart: true, Properties: packet.ConnectProperties{HasAuthMethod: true, AuthMethod: "GS2-KRB5"}})
	w.expect("CONNACK "+packet.BadAuthenticationMethod.String(), "closed")

	w = s.dial(packet.V5)
	w.expect("closed") // no CONNECT in time
}

// A message that the store refuses is not acknowledged as taken: 5.0 says why, 3.1.1 keeps it.
// What needs no store goes on.
func TestStoreFailure(t *testing.T) {
	eachVersion(t, func(t *testing.T, v packet.Version) {
		s := start(t, nil, broker.Limits{})
		sub := s.connect(v, kept("sub"))
		sub.send(subscribe(1, filter("d", 2)))
		sub.expect("SUBACK 1…")
		pub := s.connect(v, clean("pub"))
		s.store.failWith(fmt.Errorf("write: %w", session.ErrFull))
		pub.send(publish("d", "local", 0, 0))
		sub.expect("PUBLISH d=local q0")
		pub.send(publish("d", "x", 2, 1))
		if v == packet.V5 {
			pub.expect("PUBREC 1 " + packet.QuotaExceeded.String())
		} else {
			pub.expect("closed")
			pub = s.connect(v, clean("pub"))
		}
		// A client whose session is there comes in again, to go on with what needs no disk; another gets
		// a session that ends with its connection, and 5.0 tells it.
		s.store.failWith(errors.New("input/output error"))
		again := kept("sub")
		again.Will = &packet.Will{Topic: "will/sub", Payload: []byte("gone")}
		sub = s.dial(v)
		sub.send(&again)
		sub.expect("CONNACK Success present")
		stranger := s.dial(v)
		c := kept("stranger")
		stranger.send(&c)
		stranger.expect("CONNACK Success")
		stranger.send(subscribe(1, filter("for stranger", 1)))
		stranger.expect("SUBACK 1…")
		pub.send(publish("for stranger", "control", 1, 9))
		stranger.expect("PUBLISH for stranger=control q1 id1")
		pub.expect("PUBACK 9")
		_ = stranger.nc.Close()
		pub.send(publish("d", "local", 0, 0))
		for got := ""; got != "PUBLISH d=local q0"; got = sub.read() {
			if got == "nothing" || got == "closed" {
				t.Fatal(got)
			}
		}

		s.store.failWith(nil)
		pub.send(publish("d", "y", 2, 1))
		pub.expect("PUBREC 1")
		sub.expect("PUBLISH d=y q2 id2")
		if got := s.server.Stats().Unstored.Load(); got != 2 {
			t.Errorf("Unstored = %d, want 2: the message and the will", got)
		}
	})
}

// [MQTT-3.3.4-9]: the client's Receive Maximum; [MQTT-3.1.2-24]: its Maximum Packet Size.
func TestClientLimits(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	c := clean("c")
	c.Properties = packet.ConnectProperties{ReceiveMaximum: 2, MaximumPacketSize: 40}
	w := s.connect(packet.V5, c)
	w.send(subscribe(1, filter("d", 1)))
	w.expect("SUBACK 1…")
	pub := s.connect(packet.V5, clean("pub"))
	pub.send(publish("d", "1", 1, 1), publish("d", fmt.Sprintf("%040d", 2), 1, 2), publish("d", "3", 1, 3), publish("d", "4", 1, 4))
	w.expect("PUBLISH d=1 q1 id1")
	w.send(ack(packet.PUBACK, 1))
	w.expect("PUBLISH d=3 q1 id3", "PUBLISH d=4 q1 id4")
	w.silent()
	if got := s.server.Stats().TooLarge.Load(); got != 1 {
		t.Errorf("TooLarge = %d, want 1", got)
	}
}

// [MQTT-3.3.2-5], [MQTT-3.3.2-6]
func TestMessageExpiry(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	sub := s.connect(packet.V5, kept("sub"))
	sub.send(subscribe(1, filter("d", 1)))
	sub.expect("SUBACK 1…")
	sub.send(&packet.Disconnect{})
	sub.expect("closed")
	pub := s.connect(packet.V5, clean("pub"))
	for i, expiry := range []uint32{1, 100} {
		p := publish("d", fmt.Sprint(expiry), 1, uint16(i+1))
		p.Properties = &packet.PublishProperties{HasMessageExpiry: true, MessageExpiry: expiry}
		pub.send(p)
		pub.expect(fmt.Sprintf("PUBACK %d", i+1))
	}
	begin := time.Now()
	for time.Since(begin) < 1100*time.Millisecond {
		pub.silent()
	}
	sub = s.dial(packet.V5)
	c := kept("sub")
	sub.send(&c)
	sub.expect("CONNACK Success present", "PUBLISH d=100 q1 id2 expiry99…")
	if got := s.server.Stats().Expired.Load(); got != 1 {
		t.Errorf("Expired = %d, want 1", got)
	}
}

// The client in the process is a client like others.
func TestInProcessClient(t *testing.T) {
	store := newMemory()
	t.Cleanup(store.close)
	s := start(t, store, broker.Limits{})
	connect := func(s *site) *broker.Client {
		t.Helper()
		c, err := s.server.Connect(broker.ClientOptions{ID: "bridge", SessionExpiry: broker.Never})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	next := func(c *broker.Client) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		p, released, err := c.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s=%s q%d id%d dup:%t released:%t", p.Topic, p.Payload, p.QoS, p.ID, p.Dup, released)
	}
	c := connect(s)
	if _, err := c.Subscribe(packet.Subscribe{Filters: []packet.Subscription{{Filter: "d", QoS: 2, NoLocal: true}}}); err != nil {
		t.Fatal(err)
	}
	w := s.connect(packet.V311, clean("w"))
	w.send(publish("d", "1", 2, 1), publish("d", "2", 2, 2), publish("d", "3", 1, 3))
	w.expect("PUBREC 1", "PUBREC 2", "PUBACK 3")
	if got, want := next(c), "d=1 q2 id1 dup:false released:false"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := next(c), "d=2 q2 id2 dup:false released:false"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	accepted := make(chan error, 1)
	c.Accepted(1, func(err error) { accepted <- err })
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}

	// Its own messages do not come back; a repetition at QoS 2 is one message.
	w.send(subscribe(5, filter("up", 2)), subscribe(6, filter("d", 2)))
	w.expect("SUBACK 5…", "SUBACK 6…")
	for range 2 {
		done := make(chan packet.ReasonCode, 1)
		c.Publish(packet.Publish{Topic: "up", Payload: []byte("x"), QoS: 2, ID: 77}, func(r packet.ReasonCode) { done <- r })
		if r := <-done; r != packet.Success {
			t.Fatalf("publish: %s", r)
		}
	}
	w.expect("PUBLISH up=x q2 id1")
	released := make(chan packet.ReasonCode, 1)
	c.Release(77, func(r packet.ReasonCode) { released <- r })
	if r := <-released; r != packet.Success {
		t.Fatalf("release: %s", r)
	}
	c.Publish(packet.Publish{Topic: "d", Payload: []byte("own"), QoS: 1}, nil)
	w.expect("PUBLISH d=own q1 id2")

	// Restart: PUBREL for the accepted one, the others again.
	s.stop()
	if _, _, err := c.Next(t.Context()); err == nil {
		// what waited may still be read
		for err == nil {
			_, _, err = c.Next(t.Context())
		}
	}
	s = start(t, store, broker.Limits{})
	c = connect(s)
	if !c.SessionPresent() {
		t.Error("the session is gone")
	}
	for _, want := range []string{"= q2 id1 dup:false released:true", "d=2 q2 id2 dup:true released:false", "d=3 q1 id3 dup:true released:false"} {
		if got := next(c); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for id := range uint16(3) {
		c.Done(id + 1)
	}
	// Another of the same name takes over.
	other := connect(s)
	if _, _, err := c.Next(t.Context()); err == nil || errors.Is(err, broker.ErrClosed) {
		t.Errorf("Next after a takeover: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, _, err := other.Next(ctx); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("Next after Close: %v", err)
	}
}

// A client that takes nothing holds nobody up, and loses QoS 0 only, counted.
func TestSlowClient(t *testing.T) {
	s := start(t, nil, broker.Limits{OutBytes: 16 << 10})
	slow := s.connect(packet.V5, clean("slow"))
	slow.send(subscribe(1, filter("d", 0)))
	slow.expect("SUBACK 1…")
	quick := s.connect(packet.V5, clean("quick"))
	quick.send(subscribe(1, filter("d", 1)))
	quick.expect("SUBACK 1…")
	pub := s.connect(packet.V5, clean("pub"))
	payload := string(make([]byte, 8<<10))
	n := 0
	for s.server.Stats().Dropped.Load() == 0 {
		n++
		pub.send(publish("d", payload, 1, uint16(n)))
		quick.expect("PUBLISH…")
		quick.send(ack(packet.PUBACK, uint16(n)))
		pub.expect(fmt.Sprintf("PUBACK %d", n))
		if n > 20000 {
			t.Fatal("nothing was dropped")
		}
	}
	for got := 0; got < n-1; got++ {
		slow.expect("PUBLISH…")
	}
}

// Clients may send without waiting for CONNACK, one byte at a time or all at once.
func TestFraming(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	c := clean("c")
	var all []byte
	for _, p := range []encoder{&c, subscribe(1, filter("d", 0)), publish("d", "x", 0, 0), &packet.Ping{Type: packet.PINGREQ}} {
		all = p.Append(all, packet.V5)
	}
	w := s.dial(packet.V5)
	w.raw(all)
	w.expect("CONNACK Success", "SUBACK 1…", "PUBLISH d=x q0", "PINGRESP")
	w = s.dial(packet.V5)
	for _, b := range all {
		w.raw([]byte{b})
	}
	w.expect("CONNACK Success", "SUBACK 1…", "PUBLISH d=x q0", "PINGRESP")
}

// $SYS is the gateway's own, and no wildcard at the front finds it [MQTT-4.7.2-1].
func TestSys(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	w := s.connect(packet.V5, clean("w"))
	w.send(subscribe(1, filter("#", 0), filter("+/broker/version", 0)))
	w.expect("SUBACK 1…")
	w.silent()
	w.send(subscribe(2, filter("$SYS/broker/version", 0)))
	w.expect("SUBACK 2…", "PUBLISH $SYS/broker/version=test q0 retain")
	w.send(publish("$SYS/broker/version", "fake", 1, 1))
	w.expect("PUBACK 1 " + packet.NotAuthorized.String())
}
