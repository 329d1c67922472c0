package conformance

import (
	"testing"

	"gateway/broker/packet"
)

// The newest retained message of a topic is the one that new subscribers get, RETAIN set, at the
// lower one of its QoS and theirs.
func TestRetained(t *testing.T) {
	every(t, func(s *site) {
		pub := s.connect(clean("pub"))
		pub.publish(retained("a/1", "old", 1, 1), retained("a/1", "new", 2, 2), retained("a/2", "other", 0, 0))
		sub := s.connect(clean("sub"))
		sub.subscribe(filter("a/1", 2))
		sub.take("PUBLISH a/1=new q2 retain")
		sub.subscribe(filter("a/1/#", 1))
		sub.take("PUBLISH a/1=new q1 retain")
		sub.subscribe(filter("a/2", 2))
		sub.take("PUBLISH a/2=other q0 retain")
		sub.silent()
	})
}

// A retained message at QoS 0 takes the place of any other.
func TestRetainedQoS0Replaces(t *testing.T) {
	every(t, func(s *site) {
		s.connect(clean("pub")).publish(retained("a", "old", 1, 1), retained("a", "new", 0, 0))
		s.subscriber(clean("sub"), filter("a", 2)).take("PUBLISH a=new q0 retain")
	})
}

// An empty retained message is delivered, RETAIN not set, and leaves nothing behind.
func TestRetainedCleared(t *testing.T) {
	every(t, func(s *site) {
		pub := s.connect(clean("pub"))
		pub.publish(retained("a", "x", 1, 1))
		sub := s.subscriber(clean("sub"), filter("a", 1))
		sub.take("PUBLISH a=x q1 retain")
		pub.publish(retained("a", "", 1, 1))
		sub.take("PUBLISH a= q1")
		s.subscriber(clean("late"), filter("a", 1)).silent()
	})
}

// A message without RETAIN neither is kept nor touches what is.
func TestNotRetained(t *testing.T) {
	every(t, func(s *site) {
		pub := s.connect(clean("pub"))
		pub.publish(publish("a", "passing", 1, 1))
		s.subscriber(clean("early"), filter("a", 1)).silent()
		pub.publish(retained("a", "kept", 1, 1), publish("a", "passing", 1, 1), publish("a", "", 1, 1))
		s.subscriber(clean("late"), filter("a", 1)).take("PUBLISH a=kept q1 retain")
	})
}

// Whom a message reaches by a subscription of before does not see its RETAIN.
func TestRetainFlagOfLiveMessage(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a", 1))
		s.connect(clean("pub")).publish(retained("a", "x", 1, 1))
		sub.take("PUBLISH a=x q1")
	})
}

// Unless it asked for it: Retain As Published.
func TestRetainAsPublished(t *testing.T) {
	v5(t, func(s *site) {
		f := filter("a", 1)
		f.RetainAsPublished = true
		sub := s.subscriber(clean("sub"), f)
		s.connect(clean("pub")).publish(retained("a", "kept", 1, 1), publish("a", "passing", 1, 1), retained("a", "", 1, 1))
		sub.take("PUBLISH a=kept q1 retain", "PUBLISH a=passing q1", "PUBLISH a= q1 retain")
	})
}

// Before 5.0 every SUBSCRIBE gets the retained messages, in 5.0 the one that wants them.
func TestRetainedAgain(t *testing.T) {
	every(t, func(s *site) {
		s.connect(clean("pub")).publish(retained("a", "x", 1, 1))
		sub := s.connect(clean("sub"))
		for range 2 {
			sub.subscribe(filter("a", 1))
			sub.take("PUBLISH a=x q1 retain")
		}
	})
}

func TestRetainHandling(t *testing.T) {
	v5(t, func(s *site) {
		s.connect(clean("pub")).publish(retained("a", "x", 1, 1))
		handled := func(how byte) packet.Subscription {
			f := filter("a", 1)
			f.RetainHandling = how
			return f
		}
		sub := s.connect(kept("sub"))
		sub.subscribe(handled(2))
		sub.silent()
		sub.subscribe(handled(1)) // it exists
		sub.silent()
		sub.subscribe(handled(0))
		sub.take("PUBLISH a=x q1 retain")
		sub.send(unsubscribe(1, "a"))
		sub.expect("UNSUBACK 1 00")
		sub.subscribe(handled(1)) // it is new
		sub.take("PUBLISH a=x q1 retain")
		sub.leave()
		sub = s.connect(kept("sub"))
		sub.subscribe(handled(1)) // it exists since before
		sub.silent()
	})
}
