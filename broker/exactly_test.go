package broker_test

import (
	"errors"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// [MQTT-4.3.3-10]: a repetition is no proof that the first one has been stored.
func TestRepetitionOfWhatCouldNotBeStored(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	sub := s.connect(packet.V5, kept("sub"))
	sub.send(subscribe(1, filter("d", 2)))
	sub.expect("SUBACK 1…")
	pub := s.connect(packet.V5, kept("pub"))

	s.store.pause(true)
	pub.send(publish("d", "x", 2, 5))
	pub.silent()
	pub = s.again(packet.V5, kept("pub"))
	again := publish("d", "x", 2, 5)
	again.Dup = true
	pub.send(again)
	pub.silent()
	s.store.failWith(errors.New("no"))
	s.store.pause(false)
	pub.expect("PUBREC 5 " + packet.ImplementationSpecificError.String())

	s.store.failWith(nil)
	pub.send(again)
	pub.expect("PUBREC 5")
	sub.expect("PUBLISH d=x q2 id…")
	sub.silent()
}

// [MQTT-4.3.3-11]: PUBCOMP tells that the identifier is forgotten, so it must be, whichever of
// two PUBRELs it answers.
func TestRepetitionOfWhatCouldNotBeReleased(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	pub := s.connect(packet.V5, kept("pub"))
	pub.send(publish("d", "x", 2, 5))
	pub.expect("PUBREC 5…")
	s.store.pause(true)
	pub.send(ack(packet.PUBREL, 5))
	pub.silent()
	pub = s.again(packet.V5, kept("pub"))
	pub.send(ack(packet.PUBREL, 5))
	pub.silent()
	s.store.failWith(errors.New("no"))
	s.store.pause(false)
	pub.expect("DISCONNECT "+packet.ImplementationSpecificError.String(), "closed")

	s.store.failWith(nil)
	pub = s.again(packet.V5, kept("pub"))
	pub.send(ack(packet.PUBREL, 5))
	pub.expect("PUBCOMP 5")
}

// [MQTT-4.3.3-6]: PUBREL leaves when the PUBREC is durable, by the next connection too.
func TestPubrelAfterReconnectWaitsForCommit(t *testing.T) {
	for _, fails := range []bool{false, true} {
		s := start(t, nil, broker.Limits{})
		sub := s.connect(packet.V5, kept("sub"))
		sub.send(subscribe(1, filter("d", 2)))
		sub.expect("SUBACK 1…")
		pub := s.connect(packet.V5, clean("pub"))
		pub.send(publish("d", "x", 2, 5))
		sub.expect("PUBLISH d=x q2 id1")
		s.store.pause(true)
		sub.send(ack(packet.PUBREC, 1))
		sub.silent()
		sub = s.dial(packet.V5)
		c := kept("sub")
		sub.send(&c)
		if got := sub.readWithin(100 * time.Millisecond); got != "nothing" {
			t.Fatalf("%s before the commit", got)
		}
		if fails {
			s.store.failWith(errors.New("no"))
		}
		s.store.pause(false)
		if !fails {
			sub.expect("CONNACK Success present", "PUBREL 1")
			continue
		}
		// The PUBREC has never been: the message is sent again.
		sub.expect("CONNACK Success present", "PUBLISH d=x q2 id1 dup")
	}
}

// [MQTT-3.1.4-3]: what comes late by the connection of before is not taken for something new.
func TestLateAfterTakeover(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	sub := s.connect(packet.V5, clean("sub"))
	sub.send(subscribe(1, filter("d", 2)))
	sub.expect("SUBACK 1…")
	connect := func() *broker.Client {
		c, err := s.server.Connect(broker.ClientOptions{ID: "bridge", SessionExpiry: broker.Never})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	answer := func(ask func(done func(packet.ReasonCode))) packet.ReasonCode {
		done := make(chan packet.ReasonCode, 1)
		ask(func(r packet.ReasonCode) { done <- r })
		return <-done
	}
	publish := func(c *broker.Client) packet.ReasonCode {
		return answer(func(done func(packet.ReasonCode)) {
			c.Publish(packet.Publish{Topic: "d", Payload: []byte("x"), QoS: 2, ID: 7}, done)
		})
	}
	release := func(c *broker.Client) packet.ReasonCode {
		return answer(func(done func(packet.ReasonCode)) { c.Release(7, done) })
	}
	first := connect()
	second := connect()
	if r := publish(second); r != packet.Success {
		t.Fatal(r)
	}
	sub.expect("PUBLISH d=x q2 id1")
	if r := release(first); !r.Failed() {
		t.Errorf("the first connection released an identifier of the second: %s", r)
	}
	if r := release(second); r != packet.Success {
		t.Fatal(r)
	}
	if r := publish(first); !r.Failed() {
		t.Errorf("the first connection published: %s", r)
	}
	sub.silent()
}
