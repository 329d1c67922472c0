package conformance

import (
	"fmt"
	"reflect"
	"testing"

	"gateway/broker/packet"
)

// leaving is a CONNECT with a will.
func leaving(id string, w packet.Will) packet.Connect {
	c := clean(id)
	c.Will = &w
	return c
}

func TestWill(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("w", 2))
		for qos := range packet.QoS(3) {
			s.connect(leaving("a", packet.Will{Topic: "w", Payload: []byte("bye"), QoS: qos})).cut()
			sub.take(fmt.Sprintf("PUBLISH w=bye q%d", qos))
		}
		s.subscriber(clean("late"), filter("w", 0)).silent()
	})
}

func TestRetainedWill(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("w", 2))
		s.connect(leaving("a", packet.Will{Topic: "w", Payload: []byte("bye"), QoS: 1, Retain: true})).cut()
		sub.take("PUBLISH w=bye q1")
		s.subscriber(clean("late"), filter("w", 2)).take("PUBLISH w=bye q1 retain")
	})
}

func TestWillDiscarded(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("w", 2))
		s.connect(leaving("a", packet.Will{Topic: "w", Payload: []byte("bye")})).leave()
		s.connect(clean("a")).cut()
		s.marker("w")
		sub.take("PUBLISH w=marker q1")
	})
}

// marker publishes a message behind all that was published before.
func (s *site) marker(topic string) {
	s.t.Helper()
	s.connect(clean("marker")).publish(publish(topic, "marker", 1, 1))
}

func TestDisconnectWithWill(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("w", 2))
		w := s.connect(leaving("a", packet.Will{Topic: "w", Payload: []byte("bye")}))
		w.send(&packet.Disconnect{Reason: packet.DisconnectWithWill})
		w.expect("closed")
		sub.expect("PUBLISH w=bye q0")
	})
}

// A will that has been published is gone.
func TestWillOnce(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("w", 2))
		c := kept("a")
		c.Will = &packet.Will{Topic: "w", Payload: []byte("bye")}
		s.connect(c).cut()
		sub.expect("PUBLISH w=bye q0")
		s.connect(kept("a")).cut()
		s.connect(kept("a")).leave()
		s.marker("w")
		sub.take("PUBLISH w=marker q1")
	})
}

// A client that breaks the protocol, or is taken over, has not said DISCONNECT.
func TestWillOfOffender(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("w", 2))
		w := s.connect(leaving("a", packet.Will{Topic: "w", Payload: []byte("offender")}))
		w.raw([]byte{0x36, 0x05, 0, 1, 'a', 0, 1})
		w.refused(packet.MalformedPacket)
		sub.expect("PUBLISH w=offender q0")
		s.connect(leaving("b", packet.Will{Topic: "w", Payload: []byte("taken over")}))
		s.connect(clean("b"))
		sub.expect("PUBLISH w=taken over q0")
	})
}

func TestWillDelay(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("w", 2))
		c := kept("a")
		c.Will = &packet.Will{Topic: "w", Payload: []byte("bye"), Delay: 2}
		s.connect(c).cut()
		s.marker("w")
		sub.take("PUBLISH w=marker q1")
		sub.expect("PUBLISH w=bye q0")
	})
}

// A will is published at the end of its session, however long its delay.
func TestWillDelayBeyondSession(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("w", 2))
		c := expiring("a", 1)
		c.Will = &packet.Will{Topic: "w", Payload: []byte("bye"), Delay: 1000}
		s.connect(c).cut()
		sub.expect("PUBLISH w=bye q0")

		c.ClientID, c.Properties = "b", packet.ConnectProperties{}
		s.connect(c).cut()
		sub.expect("PUBLISH w=bye q0")
	})
}

// Who is back in time needs no will.
func TestWillDelayReturn(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("w", 2))
		c := kept("a")
		c.Will = &packet.Will{Topic: "w", Payload: []byte("bye"), Delay: 2}
		s.connect(c).cut()
		w := s.open(kept("a"))
		w.expect("CONNACK Success present")
		s.elapse(3)
		w.leave()
		s.marker("w")
		sub.take("PUBLISH w=marker q1")
	})
}

func TestWillProperties(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("w", 2))
		sent := packet.PublishProperties{
			PayloadFormat: 1, MessageExpiry: 100, HasMessageExpiry: true, ContentType: "text/plain",
			ResponseTopic: "answer", CorrelationData: []byte{0, 1, 2},
			User: []packet.UserProperty{{Name: "b", Value: "1"}, {Name: "a", Value: "2"}, {Name: "b", Value: "1"}},
		}
		s.connect(leaving("a", packet.Will{Topic: "w", Payload: []byte("bye"), Properties: &sent})).cut()
		sub.expect("PUBLISH w=bye q0")
		got := sub.last.Properties
		if got != nil && got.MessageExpiry > 95 {
			got.MessageExpiry = 100
		}
		if !reflect.DeepEqual(got, &sent) {
			s.t.Errorf("got %+v, want %+v", got, &sent)
		}
	})
}
