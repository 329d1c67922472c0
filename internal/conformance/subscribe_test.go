package conformance

import (
	"fmt"
	"testing"

	"gateway/broker/packet"
)

// One SUBACK answers a SUBSCRIBE, with its identifier and a code for each filter, in order.
func TestSuback(t *testing.T) {
	every(t, func(s *site) {
		w := s.connect(clean("a"))
		w.send(subscribe(65535, filter("a", 2), filter("b/#", 1), filter("c", 0), filter("+/d", 0), filter("e", 1)))
		w.expect("SUBACK 65535 02 01 00 00 01")
		w.send(subscribe(1, filter("f", 1)))
		w.expect("SUBACK 1 01")
		s.connect(clean("pub")).publish(publish("c", "0", 1, 1), publish("e", "1", 2, 1), publish("a", "2", 2, 1))
		w.take("PUBLISH c=0 q0", "PUBLISH e=1 q1", "PUBLISH a=2 q2")
	})
}

// The same filter again takes the place of the subscription, which stays one.
func TestSubscribeAgain(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a", 2))
		pub := s.connect(clean("pub"))
		sub.subscribe(filter("a", 1))
		pub.publish(publish("a", "x", 2, 1))
		sub.take("PUBLISH a=x q1")
		sub.silent()
		sub.send(unsubscribe(1, "a"))
		sub.expect("UNSUBACK 1…")
		pub.publish(publish("a", "x", 2, 1))
		sub.silent()
	})
}

// Nothing is lost while a subscription takes the place of another.
func TestSubscribeAgainLosesNothing(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(kept("sub"), filter("a", 1))
		pub := s.connect(clean("pub"))
		pub.publish(publish("a", "before", 1, 1))
		sub.expect("PUBLISH a=before q1")
		sub.leave()
		pub.publish(publish("a", "away", 1, 1))
		sub = s.dial()
		c := kept("sub")
		sub.send(&c, subscribe(7, filter("a", 1)))
		sub.expect("CONNACK Success present")
		seen := map[string]bool{}
		for range 3 {
			seen[sub.read()] = true
			if sub.id != 0 {
				sub.send(ack(packet.PUBACK, sub.id))
				sub.id = 0
			}
		}
		for _, line := range []string{"PUBLISH a=before q1 dup", "PUBLISH a=away q1", "SUBACK 7 01"} {
			if !seen[line] {
				s.t.Errorf("no %q among %v", line, seen)
			}
		}
	})
}

// A SUBSCRIBE or UNSUBSCRIBE that breaks the rules ends the connection.
func TestBadSubscribe(t *testing.T) {
	both(t, func(s *site) {
		id, options := "\x00\x01", []string{"\x03", "\x04", "\x40", "\x80"}
		if s.v == packet.V5 {
			id, options = "\x00\x01\x00", []string{"\x03", "\x30", "\x40", "\x80"}
		}
		zero := "\x00\x00" + id[2:]
		either := []packet.ReasonCode{packet.MalformedPacket, packet.ProtocolError}
		bad := map[string][]byte{
			"no filter":                       frame(0x82, id),
			"no filter to unsubscribe":        frame(0xa2, id),
			"identifier 0":                    frame(0x82, zero+str("a")+"\x00"),
			"identifier 0 to unsubscribe":     frame(0xa2, zero+str("a")),
			"flags 0000":                      frame(0x80, id+str("a")+"\x00"),
			"flags 0000 to unsubscribe":       frame(0xa0, id+str("a")),
			"a filter that is not UTF-8":      frame(0x82, id+str("a\xff")+"\x00"),
			"a null character":                frame(0x82, id+str("a\x00")+"\x00"),
			"not UTF-8 to unsubscribe":        frame(0xa2, id+str("a\xff")),
			"a null character to unsubscribe": frame(0xa2, id+str("a\x00")),
			"a filter without options":        frame(0x82, id+str("a")),
			"half a filter":                   frame(0x82, id+"\x00\x05a"),
		}
		for _, o := range options {
			bad[fmt.Sprintf("options %#02x", o)] = frame(0x82, id+str("a")+o)
		}
		for name, b := range bad {
			s.t.Run(name, func(t *testing.T) {
				skipKnown(t)
				s := &site{t, s.v, s.prefix}
				w := s.connect(clean(""))
				w.raw(b)
				w.refused(either...)
			})
		}
	})
}

// An empty filter is none.
func TestEmptyFilter(t *testing.T) {
	every(t, func(s *site) {
		w := s.connect(clean("a"))
		w.send(subscribe(1, filter("=", 0)))
		switch got := w.read(); got {
		case "SUBACK 1 80", "SUBACK 1 8f", "closed", "DISCONNECT Malformed Packet", "DISCONNECT Protocol Error", "DISCONNECT Topic Filter invalid":
		default:
			s.t.Errorf("got %q", got)
		}
	})
}

// No Local keeps a client's own messages from it.
func TestNoLocal(t *testing.T) {
	v5(t, func(s *site) {
		f := filter("a", 1)
		f.NoLocal = true
		w := s.subscriber(kept("a"), f)
		w.publish(publish("a", "own", 1, 1))
		w.silent()
		s.connect(clean("b")).publish(publish("a", "other's", 1, 1))
		w.take("PUBLISH a=other's q1")
		// It is the client that counts, not the connection.
		w.leave()
		w = s.connect(kept("a"))
		w.publish(publish("a", "own", 1, 1))
		w.silent()
	})
}

// A message that several subscriptions match comes at the highest of their QoS.
func TestOverlap(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a/b", 0), filter("a/+", 2), filter("a/#", 1))
		s.connect(clean("pub")).publish(publish("a/b", "x", 2, 1))
		highest := packet.QoS(0)
		for _, p := range sub.burst() {
			highest = max(highest, p.QoS)
		}
		if highest != 2 {
			s.t.Errorf("the highest QoS is %d, want 2", highest)
		}
	})
}

// A message has the identifiers of all the subscriptions by which it comes.
func TestSubscriptionIdentifiers(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.connect(kept("sub"))
		for i, f := range []string{"a/b", "a/+", "a/#"} {
			p := subscribe(1, filter(f, 1))
			p.SubscriptionID = []uint32{1, 268_435_455, 0}[i]
			sub.send(p)
			sub.expect("SUBACK 1 01")
		}
		pub := s.connect(clean("pub"))
		for _, qos := range []packet.QoS{0, 1} {
			pub.publish(publish("a/b", "x", qos, uint16(qos)))
			s.wantIdentifiers(sub.burst(), 1, 268_435_455)
		}
		// They are part of the session.
		sub.leave()
		pub.publish(publish("a/b", "x", 1, 1))
		sub = s.connect(kept("sub"))
		sub.take("PUBLISH a/b=x q1")
		first := sub.last
		s.wantIdentifiers(append(sub.burst(), first), 1, 268_435_455)
		// A new one takes the place of the old.
		p := subscribe(1, filter("a/b", 1))
		p.SubscriptionID = 5
		sub.send(p)
		sub.expect("SUBACK 1 01")
		pub.publish(publish("a/b", "x", 1, 1))
		s.wantIdentifiers(sub.burst(), 5, 268_435_455)
	})
}

// wantIdentifiers compares the identifiers of all copies of a message, one or several.
func (s *site) wantIdentifiers(copies []packet.Publish, want ...uint32) {
	s.t.Helper()
	got := map[uint32]int{}
	for _, p := range copies {
		if x := p.Properties; x != nil {
			for _, id := range x.SubscriptionIDs {
				got[id]++
			}
		}
	}
	for _, id := range want {
		if got[id] != 1 {
			s.t.Errorf("subscription identifiers %v, want %v once each", got, want)
		}
	}
	if len(got) != len(want) {
		s.t.Errorf("subscription identifiers %v, want %v", got, want)
	}
}

// Retained messages come with the identifier of the subscription that asked for them.
func TestSubscriptionIdentifierOfRetained(t *testing.T) {
	v5(t, func(s *site) {
		s.connect(clean("pub")).publish(retained("a", "x", 1, 1))
		sub := s.connect(clean("sub"))
		p := subscribe(1, filter("a", 1))
		p.SubscriptionID = 7
		sub.send(p)
		sub.expect("SUBACK 1 01")
		sub.take("PUBLISH a=x q1 retain")
		if x := sub.last.Properties; x == nil || len(x.SubscriptionIDs) != 1 || x.SubscriptionIDs[0] != 7 {
			s.t.Errorf("properties %+v, want subscription identifier 7", x)
		}
	})
}

func TestUnsubscribe(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a/+", 1), filter("a/b", 1), filter("c", 1), filter("A", 1))
		codes := ""
		if s.v == packet.V5 {
			codes = " 00 11 00 11"
		}
		// Compared character by character: "a/+" stays while "a/b" goes, and "a" is not "A".
		sub.send(unsubscribe(300, "a/b", "a", "c", "+/b"))
		sub.expect("UNSUBACK 300" + codes)
		pub := s.connect(clean("pub"))
		pub.publish(publish("c", "gone", 1, 1), publish("A", "stays", 1, 1), publish("a/b", "by +", 1, 1))
		sub.take("PUBLISH A=stays q1", "PUBLISH a/b=by + q1")
		sub.silent()
	})
}

// UNSUBSCRIBE is answered also when there was nothing to end.
func TestUnsubscribeNothing(t *testing.T) {
	every(t, func(s *site) {
		w := s.connect(clean("a"))
		w.send(unsubscribe(1, "nothing"))
		if s.v == packet.V5 {
			w.expect("UNSUBACK 1 11")
		} else {
			w.expect("UNSUBACK 1")
		}
	})
}

// What is on its way when a subscription ends is brought to its end.
func TestUnsubscribeInFlight(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(kept("sub"), filter("a", 2))
		s.connect(clean("pub")).publish(publish("a", "1", 1, 1), publish("a", "2", 2, 1))
		sub.expect("PUBLISH a=1 q1")
		one := sub.id
		sub.expect("PUBLISH a=2 q2")
		two := sub.id
		sub.send(unsubscribe(1, "a"))
		sub.expect("UNSUBACK 1…")
		sub.send(ack(packet.PUBREC, two))
		sub.expect("PUBREL")
		sub.cut()
		sub = s.open(kept("sub"))
		sub.expect("CONNACK Success present", "PUBLISH a=1 q1 dup")
		sub.expect("PUBREL")
		sub.send(ack(packet.PUBACK, one), ack(packet.PUBCOMP, two))
		sub.silent()
	})
}
