package conformance

import (
	"testing"
	"time"

	"gateway/broker/packet"
)

// A clean start forgets subscriptions, messages and everything else.
func TestCleanStart(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(kept("sub"), filter("a", 2))
		pub := s.connect(clean("pub"))
		pub.publish(publish("a", "in flight", 1, 1))
		sub.expect("PUBLISH a=in flight q1")
		sub.leave()
		pub.publish(publish("a", "queued", 1, 1))
		sub = s.open(clean("sub"))
		sub.expect("CONNACK Success")
		pub.publish(publish("a", "live", 1, 1))
		sub.silent()
		sub.leave()
		sub = s.open(kept("sub"))
		sub.expect("CONNACK Success")
		sub.silent()
	})
}

// A session goes on with its subscriptions and with the messages that came meanwhile.
func TestResume(t *testing.T) {
	every(t, func(s *site) {
		s.subscriber(kept("sub"), filter("a", 2)).leave()
		pub := s.connect(clean("pub"))
		pub.publish(publish("a", "1", 1, 1), publish("a", "2", 2, 2))
		sub := s.open(kept("sub"))
		sub.expect("CONNACK Success present")
		sub.take("PUBLISH a=1 q1", "PUBLISH a=2 q2")
		pub.publish(publish("a", "3", 1, 3))
		sub.take("PUBLISH a=3 q1")
	})
}

func TestRetainedOutlivesSession(t *testing.T) {
	every(t, func(s *site) {
		pub := s.connect(clean("pub"))
		pub.publish(retained("a", "stays", 1, 1))
		pub.leave()
		s.subscriber(clean("sub"), filter("a", 0)).expect("PUBLISH a=stays q0 retain")
	})
}

// In 5.0 a session without an expiry interval ends with its connection, however it began.
func TestSessionEndsWithConnection(t *testing.T) {
	v5(t, func(s *site) {
		s.connect(packet.Connect{ClientID: "a"}).leave()
		s.open(kept("a")).expect("CONNACK Success")
	})
}

func TestSessionExpiry(t *testing.T) {
	v5(t, func(s *site) {
		s.subscriber(expiring("a", 1), filter("a", 1)).cut()
		s.elapse(3)
		s.open(expiring("a", 1)).expect("CONNACK Success")
	})
}

// An expiry interval runs when the client is away, not before.
func TestSessionOutlivesInterval(t *testing.T) {
	v5(t, func(s *site) {
		w := s.subscriber(expiring("a", 1), filter("a", 1))
		s.elapse(2)
		s.connect(clean("pub")).publish(publish("a", "still here", 1, 1))
		w.take("PUBLISH a=still here q1")
	})
}

// A DISCONNECT may change the expiry interval, unless it was 0.
func TestSessionExpiryAtDisconnect(t *testing.T) {
	v5(t, func(s *site) {
		w := s.connect(expiring("a", 1000))
		w.send(&packet.Disconnect{HasSessionExpiry: true})
		w.expect("closed")
		w = s.open(expiring("a", 1))
		w.expect("CONNACK Success")
		w.send(&packet.Disconnect{HasSessionExpiry: true, SessionExpiry: 1000})
		w.expect("closed")
		s.elapse(3)
		s.open(kept("a")).expect("CONNACK Success present")

		w = s.connect(clean("b"))
		w.send(&packet.Disconnect{HasSessionExpiry: true, SessionExpiry: 10})
		w.refused(packet.ProtocolError)
	})
}

// A client that is silent for 1.5 times its keep alive is taken for lost.
func TestKeepAlive(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("will", 0))
		c := clean("a")
		c.KeepAlive = 1
		c.Will = &packet.Will{Topic: "will", Payload: []byte("lost")}
		w := s.connect(c)
		w.refused(packet.KeepAliveTimeout)
		sub.expect("PUBLISH will=lost q0")
	})
}

// Any packet keeps a connection alive. On a machine that lets this test wait for longer than the
// keep alive allows, it begins again.
func TestKeptAlive(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("beat", 1))
		for try := 0; !s.keptAlive(); try++ {
			if try == 10 {
				s.t.Fatal("this machine is too busy for a keep alive of 1 s")
			}
		}
		sub.take("PUBLISH beat=x q1")
	})
}

// keptAlive reports false if the client was late.
func (s *site) keptAlive() bool {
	c := clean("a")
	c.KeepAlive = 1
	w := s.connect(c)
	beat := time.NewTicker(800 * time.Millisecond)
	defer beat.Stop()
	last := time.Now()
	late := func() bool { return time.Since(last) > 1300*time.Millisecond }
	for _, p := range []encoder{&packet.Ping{Type: packet.PINGREQ}, publish("beat", "x", 1, 7), &packet.Ping{Type: packet.PINGREQ}} {
		if <-beat.C; late() {
			return false
		}
		w.send(p)
		got := w.read()
		if late() {
			return false
		}
		if last = time.Now(); got != "PINGRESP" && got != "PUBACK 7" {
			s.t.Fatalf("got %q", got)
		}
	}
	return true
}

func TestPing(t *testing.T) {
	every(t, func(s *site) {
		w := s.connect(clean("a"))
		w.send(&packet.Ping{Type: packet.PINGREQ}, &packet.Ping{Type: packet.PINGREQ})
		w.expect("PINGRESP", "PINGRESP")
		w.silent()
	})
}
