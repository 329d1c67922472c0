package conformance

import (
	"testing"

	"gateway/broker/packet"
)

// lasting is a message with an expiry interval, in seconds.
func lasting(seconds uint32, p *packet.Publish) *packet.Publish {
	p.Properties = &packet.PublishProperties{MessageExpiry: seconds, HasMessageExpiry: true}
	return p
}

// A message that has waited too long is not delivered, queued or retained.
func TestMessageExpiry(t *testing.T) {
	v5(t, func(s *site) {
		s.subscriber(kept("sub"), filter("a", 2)).leave()
		pub := s.connect(clean("pub"))
		pub.publish(lasting(1, publish("a", "short", 1, 1)), lasting(1, publish("a", "short", 2, 2)),
			publish("a", "for ever", 1, 3), lasting(1, retained("r", "short", 1, 4)))
		s.elapse(2)
		s.connect(kept("sub")).take("PUBLISH a=for ever q1")
		s.subscriber(clean("late"), filter("r", 1)).silent()
	})
}

// What is left of the interval goes with the message.
func TestRemainingExpiry(t *testing.T) {
	v5(t, func(s *site) {
		s.subscriber(kept("sub"), filter("a", 1)).leave()
		pub := s.connect(clean("pub"))
		live := s.subscriber(clean("live"), filter("a", 1))
		pub.publish(lasting(100, retained("a", "x", 1, 1)))
		live.take("PUBLISH a=x q1")
		s.wantExpiry(live, 99, 100)
		s.elapse(2)
		sub := s.connect(kept("sub"))
		sub.take("PUBLISH a=x q1")
		s.wantExpiry(sub, 90, 99)
		late := s.subscriber(clean("late"), filter("a", 1))
		late.take("PUBLISH a=x q1 retain")
		s.wantExpiry(late, 90, 99)
	})
}

func (s *site) wantExpiry(w *wire, from, to uint32) {
	s.t.Helper()
	if x := w.last.Properties; x == nil || !x.HasMessageExpiry || x.MessageExpiry < from || x.MessageExpiry > to {
		s.t.Errorf("properties %+v, want an expiry interval of %d to %d", x, from, to)
	}
}

// A QoS 2 message that has been sent once is brought to its end, expired or not.
func TestExpiryOfSentMessage(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.subscriber(kept("sub"), filter("a", 2))
		s.connect(clean("pub")).publish(lasting(2, publish("a", "x", 2, 5)))
		sub.expect("PUBLISH a=x q2")
		sub.cut()
		s.elapse(4)
		sub = s.open(kept("sub"))
		sub.expect("CONNACK Success present")
		sub.take("PUBLISH a=x q2 dup")
	})
}

// So is one that the server has received.
func TestExpiryOfReceivedMessage(t *testing.T) {
	v5(t, func(s *site) {
		pub := s.connect(clean("pub"))
		pub.send(lasting(1, publish("a", "x", 2, 5)))
		pub.expect("PUBREC 5")
		s.elapse(2)
		pub.send(ack(packet.PUBREL, 5))
		pub.expect("PUBCOMP 5")
	})
}
