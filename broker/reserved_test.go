package broker_test

import (
	"testing"

	"gateway/broker"
	"gateway/broker/packet"
)

// What the gateway says about itself and its bridges, nobody else can say.
func TestReservedTopics(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	w := s.connect(packet.V5, clean("forger"))
	for i, name := range []string{"$SYS/broker/bridge/cloud/state", "$bridge/cloud/asked/a", "$dead/cloud/a"} {
		w.send(publish(name, "x", 1, uint16(i+1)))
		h, body := w.frame()
		if a, err := w.dec.Ack(h.Type, body); err != nil || a.Reason != packet.NotAuthorized {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	w.send(publish("$deadline", "x", 1, 9))
	w.expect("PUBACK 9 " + packet.NoMatchingSubscribers.String())
}

// A client that says that it is a bridge does not get back what it sends; others do.
func TestBridgeGetsNothingBack(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	for _, bridge := range []bool{false, true} {
		c := clean("site")
		c.Bridge = bridge
		w := s.connect(packet.V311, c)
		w.send(subscribe(1, filter("a/#", 1)))
		w.expect("SUBACK 1 [Granted QoS 1]")
		w.send(publish("a/b", "own", 0, 0))
		if !bridge {
			w.expect("PUBLISH a/b=own q0")
		}
		other := s.connect(packet.V311, clean("other"))
		other.send(publish("a/b", "other's", 0, 0))
		w.expect("PUBLISH a/b=other's q0")
	}
}

// Nor does it, when it subscribes again, get what it has retained itself, nor its own will.
func TestBridgeGetsNothingRetainedBack(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	other := s.connect(packet.V311, clean("other"))
	other.send(retain("a/other's", "x", 1, 1))
	other.expect("PUBACK 1")
	c := clean("site")
	c.Bridge, c.Will = true, &packet.Will{Topic: "a/gone", Payload: []byte("x"), QoS: 1, Retain: true}
	w := s.connect(packet.V311, c)
	w.send(subscribe(1, filter("a/#", 1)), retain("a/own", "x", 1, 1))
	w.expect("SUBACK 1 [Granted QoS 1]", "PUBLISH a/other's=x q1 id1 retain", "PUBACK 1")
	again := s.connect(packet.V311, c) // the will is published
	again.send(subscribe(1, filter("a/#", 1)))
	again.expect("SUBACK 1 [Granted QoS 1]", "PUBLISH a/other's=x q1 id1 retain")
	again.silent()
}
