package broker_test

import (
	"testing"

	"gateway/broker"
	"gateway/broker/packet"
)

// [MQTT-4.3.3-10]: a client that has gone on while a backup took the place of the store may have the identifier
// of a message that is new to it, and has to forget it first.
func TestStrangeIdentifiers(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		hello := kept("sub")
		if v < packet.V5 {
			hello.Properties = packet.ConnectProperties{}
		}
		s := start(t, nil, broker.Limits{})
		sub := s.connect(v, hello)
		sub.send(subscribe(1, filter("d", 2)))
		sub.expect("SUBACK 1…")
		s.stop()
		store := s.store
		store.strange = 2
		s = start(t, store, broker.Limits{})
		sub = s.again(v, hello)
		pub := s.connect(packet.V5, clean("pub"))
		pub.send(publish("d", "x", 2, 5))
		pub.expect("PUBREC 5")
		sub.expect("PUBREL 1", "PUBLISH d=x q2 id1")
		sub.send(ack(packet.PUBCOMP, 1), ack(packet.PUBREC, 1))
		sub.expect("PUBREL 1")
		sub.send(ack(packet.PUBCOMP, 1))
		pub.send(publish("d", "y", 2, 6))
		pub.expect("PUBREC 6")
		sub.expect("PUBLISH d=y q2 id2")
	}
}
