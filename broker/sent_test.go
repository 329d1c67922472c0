package broker_test

import (
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// After a restart a message that was never sent goes out with DUP 0 [MQTT-4.3.2-2], [MQTT-4.3.3-2], and not at
// all when it has expired [MQTT-3.3.2-5]; one that was sent has DUP 1, and is completed at QoS 2 though it has
// expired [MQTT-3.3.1-1], [MQTT-4.3.3-7]. After a loss of power nobody knows which were.
func TestSentAcrossRestart(t *testing.T) {
	for _, crash := range []bool{false, true} {
		store := newMemory()
		t.Cleanup(store.close)
		s := start(t, store, broker.Limits{})
		c := kept("sub")
		sub := s.connect(packet.V5, c)
		sub.send(subscribe(1, filter("d", 2)))
		sub.expect("SUBACK 1…")
		pub := s.connect(packet.V5, clean("pub"))
		pub.send(lasting(1, publish("d", "sent", 2, 1)))
		pub.expect("PUBREC 1")
		sub.expect("PUBLISH d=sent q2 id1 expiry1")
		sub.send(&packet.Disconnect{})
		sub.expect("closed")
		pub.send(publish("d", "1", 1, 2), lasting(1, publish("d", "gone", 2, 3)), publish("d", "2", 2, 4))
		pub.expect("PUBACK 2", "PUBREC 3", "PUBREC 4")
		pub.elapse(1100 * time.Millisecond)
		if crash {
			sub = s.dial(packet.V5)
			store.pause(true)
			sub.send(&c)
			if got := sub.readWithin(50 * time.Millisecond); got != "nothing" {
				t.Errorf("before it is stored that the client is back: %s", got)
			}
			store.pause(false)
			sub.expect("CONNACK Success present", "PUBLISH d=sent q2 id1 dup expiry0", "PUBLISH d=1 q1 id2", "PUBLISH d=2 q2 id4")
			store.hide(true)
		}
		s.stop()
		store.hide(false)
		for range 2 { // and once more, with nothing sent in between
			s = start(t, store, broker.Limits{})
			s.stop()
		}
		s = start(t, store, broker.Limits{})
		sub = s.again(packet.V5, c)
		if crash {
			sub.expect("PUBLISH d=sent q2 id1 dup expiry0", "PUBLISH d=1 q1 id2 dup", "PUBLISH d=2 q2 id4 dup")
		} else {
			sub.expect("PUBLISH d=sent q2 id1 dup expiry0", "PUBLISH d=1 q1 id2", "PUBLISH d=2 q2 id4")
		}
		sub.silent()
	}
}

// A client that is connected while the gateway stops, as a service does, has not been sent what its window had
// no room for.
func TestSentAtStop(t *testing.T) {
	store := newMemory()
	t.Cleanup(store.close)
	s := start(t, store, broker.Limits{})
	c := kept("sub")
	c.Properties.ReceiveMaximum = 1
	sub := s.connect(packet.V5, c)
	sub.send(subscribe(1, filter("d", 1)))
	sub.expect("SUBACK 1…")
	pub := s.connect(packet.V5, clean("pub"))
	pub.send(publish("d", "1", 1, 1), publish("d", "2", 1, 2))
	pub.expect("PUBACK 1", "PUBACK 2")
	sub.expect("PUBLISH d=1 q1 id1")
	s.stop()
	s = start(t, store, broker.Limits{})
	sub = s.again(packet.V5, c)
	sub.expect("PUBLISH d=1 q1 id1 dup")
	sub.send(ack(packet.PUBACK, 1))
	sub.expect("PUBLISH d=2 q1 id2")
}
