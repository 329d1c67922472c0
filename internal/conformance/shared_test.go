package conformance

import (
	"fmt"
	"testing"

	"gateway/broker/packet"
)

// Each message goes to one member of a group, and to everybody else who wants it.
func TestShared(t *testing.T) {
	v5(t, func(s *site) {
		members := []*wire{
			s.subscriber(clean("one"), filter("$share/g/a/+", 1)),
			s.subscriber(clean("two"), filter("$share/g/a/+", 1)),
		}
		other := s.subscriber(clean("other"), filter("$share/h/a/+", 1))
		plain := s.subscriber(clean("plain"), filter("a/b", 1))
		pub := s.connect(clean("pub"))
		const n = 10
		for i := range uint16(n) {
			pub.publish(publish("a/b", fmt.Sprint(i), 1, i+1))
		}
		for i := range n {
			other.take(fmt.Sprintf("PUBLISH a/b=%d q1", i))
			plain.take(fmt.Sprintf("PUBLISH a/b=%d q1", i))
		}
		seen := map[string]int{}
		for _, m := range members {
			got := m.burst()
			if len(got) == 0 || len(got) == n {
				s.t.Errorf("a member got %d of %d messages", len(got), n)
			}
			for _, p := range got {
				seen[string(p.Payload)]++
			}
		}
		for i := range n {
			if seen[fmt.Sprint(i)] != 1 {
				s.t.Errorf("message %d came to %d members, want 1", i, seen[fmt.Sprint(i)])
			}
		}
	})
}

// A member gets messages at the QoS that it was granted.
func TestSharedQoS(t *testing.T) {
	v5(t, func(s *site) {
		pub := s.connect(clean("pub"))
		for granted := range packet.QoS(3) {
			w := s.subscriber(clean("one"), filter("$share/g/a", granted))
			pub.publish(publish("a", "x", 2, 1))
			w.take(fmt.Sprintf("PUBLISH a=x q%d", granted))
			w.leave()
		}
	})
}

// Retained messages are not for groups.
func TestSharedGetsNoRetained(t *testing.T) {
	v5(t, func(s *site) {
		s.connect(clean("pub")).publish(retained("a", "x", 1, 1))
		s.subscriber(clean("one"), filter("$share/g/a", 1)).silent()
	})
}

// A QoS 2 message whose delivery has begun stays with its member, even if that never comes back.
func TestSharedQoS2Stays(t *testing.T) {
	v5(t, func(s *site) {
		one := s.subscriber(kept("one"), filter("$share/g/a", 2))
		s.connect(clean("pub")).publish(publish("a", "1", 2, 1), publish("a", "2", 2, 2))
		one.expect("PUBLISH a=1 q2", "PUBLISH a=2 q2")
		two := s.subscriber(clean("two"), filter("$share/g/a", 2))
		one.cut()
		two.silent()
		one = s.connect(kept("one"))
		one.expect("PUBLISH a=1 q2 dup")
		one.send(ack(packet.PUBREC, one.id))
		for range 2 {
			if got := one.read(); got != "PUBREL" && got != "PUBLISH a=2 q2 dup" {
				s.t.Fatalf("got %q", got)
			}
		}
		s.connect(clean("one")).leave() // its session ends
		two.silent()
	})
}

// What a member refuses goes to nobody.
func TestSharedRefused(t *testing.T) {
	v5(t, func(s *site) {
		one := s.subscriber(clean("one"), filter("$share/g/a", 2))
		s.connect(clean("pub")).publish(publish("a", "1", 1, 1), publish("a", "2", 2, 2))
		one.expect("PUBLISH a=1 q1")
		first := one.id
		one.expect("PUBLISH a=2 q2")
		two := s.subscriber(clean("two"), filter("$share/g/a", 2))
		one.send(&packet.Ack{Type: packet.PUBACK, ID: first, Reason: packet.UnspecifiedError},
			&packet.Ack{Type: packet.PUBREC, ID: one.id, Reason: packet.UnspecifiedError})
		one.silent()
		one.leave()
		two.silent()
	})
}

// A member that has gone gets nothing more, and the others all.
func TestSharedMemberGone(t *testing.T) {
	v5(t, func(s *site) {
		one := s.subscriber(clean("one"), filter("$share/g/a", 1))
		two := s.subscriber(clean("two"), filter("$share/g/a", 1))
		one.send(unsubscribe(1, "$share/g/a"))
		one.expect("UNSUBACK 1 00")
		pub := s.connect(clean("pub"))
		for i := range 4 {
			pub.publish(publish("a", fmt.Sprint(i), 1, 1))
			two.take(fmt.Sprintf("PUBLISH a=%d q1", i))
		}
		one.silent()
	})
}
