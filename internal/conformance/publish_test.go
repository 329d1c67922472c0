package conformance

import (
	"fmt"
	"testing"

	"gateway/broker/packet"
)

// A message arrives once at each QoS: the lower one of its own and that of the subscription.
func TestDelivery(t *testing.T) {
	every(t, func(s *site) {
		pub := s.connect(clean("pub"))
		for granted := range packet.QoS(3) {
			sub := s.subscriber(clean("sub"), filter("a", granted))
			for qos := range packet.QoS(3) {
				pub.publish(publish("a", "x", qos, uint16(qos)))
				sub.take(fmt.Sprintf("PUBLISH a=x q%d", min(qos, granted)))
			}
			sub.leave()
		}
	})
}

// The acknowledgement has the identifier of its PUBLISH, whatever it is.
func TestAcknowledgements(t *testing.T) {
	every(t, func(s *site) {
		w := s.connect(clean("a"))
		for _, id := range []uint16{1, 255, 256, 32768, 65535} {
			w.send(publish("a", "x", 1, id))
			w.expect(fmt.Sprintf("PUBACK %d", id))
			w.send(publish("a", "x", 2, id))
			w.expect(fmt.Sprintf("PUBREC %d", id))
			w.send(ack(packet.PUBREL, id))
			w.expect(fmt.Sprintf("PUBCOMP %d", id))
		}
	})
}

// A QoS 1 identifier is free with its PUBACK: the same again is another message, DUP or not.
func TestIdentifierAfterPuback(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a", 1))
		pub := s.connect(clean("pub"))
		again := publish("a", "x", 1, 5)
		again.Dup = true
		pub.publish(publish("a", "x", 1, 5), again)
		sub.take("PUBLISH a=x q1", "PUBLISH a=x q1")
	})
}

// A QoS 2 identifier is taken until PUBREL: the same again is acknowledged, and delivered once.
func TestIdentifierBeforePubrel(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a", 2))
		pub := s.connect(clean("pub"))
		p := publish("a", "once", 2, 5)
		pub.send(p)
		pub.expect("PUBREC 5")
		p.Dup = true
		pub.send(p)
		pub.expect("PUBREC 5")
		pub.send(ack(packet.PUBREL, 5))
		pub.expect("PUBCOMP 5")
		sub.take("PUBLISH a=once q2")
		pub.publish(publish("a", "next", 2, 5))
		sub.take("PUBLISH a=next q2")
		sub.silent()
	})
}

// The same holds when the publisher lost its connection between the two.
func TestIdentifierAcrossConnections(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a", 2))
		pub := s.connect(kept("pub"))
		p := publish("a", "once", 2, 5)
		pub.send(p)
		pub.expect("PUBREC 5")
		pub.cut()
		pub = s.open(kept("pub"))
		pub.expect("CONNACK Success present")
		p.Dup = true
		pub.send(p)
		pub.expect("PUBREC 5")
		pub.send(ack(packet.PUBREL, 5))
		pub.expect("PUBCOMP 5")
		sub.take("PUBLISH a=once q2")
		sub.silent()
	})
}

// PUBREL is answered also when its message is not known, as after a lost PUBCOMP.
func TestUnknownPubrel(t *testing.T) {
	every(t, func(s *site) {
		w := s.connect(clean("a"))
		w.send(ack(packet.PUBREL, 77))
		if s.v == packet.V5 {
			w.expect("PUBCOMP 77 Packet Identifier not found")
		} else {
			w.expect("PUBCOMP 77")
		}
		w.silent()
	})
}

func TestDupIsNotForwarded(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a", 2))
		pub := s.connect(clean("pub"))
		one, two := publish("a", "1", 1, 1), publish("a", "2", 2, 2)
		one.Dup, two.Dup = true, true
		pub.publish(one, two)
		sub.take("PUBLISH a=1 q1", "PUBLISH a=2 q2")
	})
}

// What is unacknowledged comes again when its session goes on, and at no other time: with DUP and
// its identifier, PUBREL in the place of what was received, in the order of before.
func TestRetransmission(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(kept("sub"), filter("a", 2))
		pub := s.connect(clean("pub"))
		pub.publish(publish("a", "1", 1, 1), publish("a", "2", 2, 2), publish("a", "3", 2, 3), publish("a", "4", 1, 4))
		var ids []uint16
		for i := range 4 {
			sub.expect(fmt.Sprintf("PUBLISH a=%d q%d", i+1, []int{1, 2, 2, 1}[i]))
			ids = append(ids, sub.id)
		}
		sub.send(ack(packet.PUBREC, ids[1]))
		sub.expect("PUBREL")
		sub.silent()
		sub.cut()

		sub = s.open(kept("sub"))
		sub.expect("CONNACK Success present")
		for i, line := range []string{"PUBLISH a=1 q1 dup", "PUBREL", "PUBLISH a=3 q2 dup", "PUBLISH a=4 q1 dup"} {
			sub.expect(line)
			if sub.id != ids[i] {
				s.t.Errorf("%s has identifier %d, want %d as before", line, sub.id, ids[i])
			}
		}
		sub.silent()
		sub.send(ack(packet.PUBACK, ids[0]), ack(packet.PUBCOMP, ids[1]), ack(packet.PUBREC, ids[2]), ack(packet.PUBACK, ids[3]))
		sub.expect("PUBREL")
		sub.send(ack(packet.PUBCOMP, ids[2]))
		sub.silent()
		sub.leave()
		sub = s.open(kept("sub"))
		sub.expect("CONNACK Success present")
		s.marker("a")
		sub.take("PUBLISH a=marker q1")
	})
}

// A message that its receiver refuses is done with.
func TestRefusedByReceiver(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.subscriber(kept("sub"), filter("a", 2))
		s.connect(clean("pub")).publish(publish("a", "1", 1, 1), publish("a", "2", 2, 2))
		sub.expect("PUBLISH a=1 q1")
		sub.send(&packet.Ack{Type: packet.PUBACK, ID: sub.id, Reason: packet.QuotaExceeded})
		sub.expect("PUBLISH a=2 q2")
		sub.send(&packet.Ack{Type: packet.PUBREC, ID: sub.id, Reason: packet.UnspecifiedError})
		sub.silent()
		sub.leave()
		sub = s.open(kept("sub"))
		sub.expect("CONNACK Success present")
		s.marker("a")
		sub.take("PUBLISH a=marker q1")
	})
}

// The server gives each message on its way an identifier of its own that is not 0.
func TestServersIdentifiers(t *testing.T) {
	every(t, func(s *site) {
		c := clean("sub")
		c.Properties.ReceiveMaximum = 10
		sub := s.subscriber(c, filter("a", 2))
		pub := s.connect(clean("pub"))
		used := map[uint16]bool{0: true}
		for i := range 10 {
			pub.publish(publish("a", "x", packet.QoS(1+i%2), uint16(i+1)))
			sub.expect(fmt.Sprintf("PUBLISH a=x q%d", 1+i%2))
			if used[sub.id] {
				s.t.Errorf("identifier %d is 0 or in use", sub.id)
			}
			used[sub.id] = true
		}
	})
}

// Messages of one publisher come in its order, and so do the acknowledgements to it.
func TestOrder(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a/+", 2))
		pub := s.connect(clean("pub"))
		for qos := range packet.QoS(3) {
			const n = 9
			var burst, releases []encoder
			for i := range uint16(n) {
				p := publish("a/b", fmt.Sprint(i), qos, i+1)
				burst, releases = append(burst, p), append(releases, ack(packet.PUBREL, i+1))
			}
			pub.send(burst...)
			for i := range n {
				switch qos {
				case 1:
					pub.expect(fmt.Sprintf("PUBACK %d", i+1))
				case 2:
					pub.expect(fmt.Sprintf("PUBREC %d", i+1))
				}
			}
			if qos == 2 {
				pub.send(releases...)
			}
			for i := 0; i < n && qos == 2; i++ {
				pub.expect(fmt.Sprintf("PUBCOMP %d", i+1))
			}
			for i := range n {
				sub.next(fmt.Sprintf("PUBLISH a/b=%d q%d", i, qos))
			}
		}
	})
}

// next is take among other packets on their way: PUBREL is answered when it comes, which must be in
// the order of the PUBRECs.
func (w *wire) next(line string) {
	w.t.Helper()
	got := w.read()
	for ; got == "PUBREL"; got = w.read() {
		if len(w.received) == 0 || w.id != w.received[0] {
			w.t.Fatalf("PUBREL for %d, want those of %v in order", w.id, w.received)
		}
		w.received = w.received[1:]
		w.send(ack(packet.PUBCOMP, w.id))
	}
	if got != line {
		w.t.Fatalf("got %q, want %q", got, line)
	}
	switch w.last.QoS {
	case 1:
		w.send(ack(packet.PUBACK, w.id))
	case 2:
		w.send(ack(packet.PUBREC, w.id))
		w.received = append(w.received, w.id)
	}
}

// A PUBLISH that breaks the rules ends the connection.
func TestBadPublish(t *testing.T) {
	both(t, func(s *site) {
		none := ""
		if s.v == packet.V5 {
			none = "\x00"
		}
		for _, tt := range []struct {
			name   string
			first  byte
			body   string
			reason packet.ReasonCode
		}{
			{"QoS 3", 0x36, str("a") + "\x00\x01" + none, packet.MalformedPacket},
			{"DUP at QoS 0", 0x38, str("a") + none, packet.MalformedPacket},
			{"identifier 0", 0x32, str("a") + "\x00\x00" + none, packet.ProtocolError},
			{"+ in the topic", 0x30, str("a/+") + none, packet.TopicNameInvalid},
			{"# in the topic", 0x30, str("#") + none, packet.TopicNameInvalid},
			{"no topic", 0x30, str("") + none, packet.ProtocolError},
			{"null character", 0x30, str("a\x00b") + none, packet.MalformedPacket},
			{"not UTF-8", 0x30, str("a\xff") + none, packet.MalformedPacket},
			{"surrogate", 0x30, str("a\xed\xa0\x80") + none, packet.MalformedPacket},
			{"half a topic", 0x30, "\x00\x05ab", packet.MalformedPacket},
			{"half an identifier", 0x32, str("a") + "\x01", packet.MalformedPacket},
		} {
			s.t.Run(tt.name, func(t *testing.T) {
				skipKnown(t)
				s := &site{t, s.v, s.prefix}
				w := s.connect(clean("a"))
				w.raw(frame(tt.first, tt.body))
				w.refused(tt.reason)
			})
		}
	})
}

// An empty message is a message.
func TestEmptyPayload(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a", 2))
		s.connect(clean("pub")).publish(publish("a", "", 0, 0), publish("a", "", 1, 1), publish("a", "", 2, 1))
		sub.take("PUBLISH a= q0", "PUBLISH a= q1", "PUBLISH a= q2")
	})
}

// A message that the server does not take, as one to its own topics, is acknowledged all the same,
// and its identifier is free again.
func TestUnwantedMessage(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a", 2))
		pub := s.connect(clean("pub"))
		pub.send(publish("=$SYS/%", "x", 1, 5))
		pub.expect("PUBACK 5…")
		pub.send(publish("=$SYS/%", "x", 2, 5))
		pub.expect("PUBREC 5…")
		if !pub.failed {
			pub.send(ack(packet.PUBREL, 5))
			pub.expect("PUBCOMP 5")
		}
		pub.publish(publish("a", "next", 2, 5))
		sub.take("PUBLISH a=next q2")
	})
}
