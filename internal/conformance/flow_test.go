package conformance

import (
	"fmt"
	"strings"
	"testing"

	"gateway/broker/packet"
)

// limited is a CONNECT of a client that takes n messages at a time.
func limited(id string, n uint16) packet.Connect {
	c := kept(id)
	c.Properties.ReceiveMaximum = n
	return c
}

// No more messages are on their way than the client takes; other packets come all the same.
func TestReceiveMaximum(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.subscriber(limited("sub", 2), filter("a", 2))
		pub := s.connect(clean("pub"))
		for i := range uint16(4) {
			pub.publish(publish("a", fmt.Sprint(i), packet.QoS(1+i%2), i+1))
		}
		sub.expect("PUBLISH a=0 q1")
		first := sub.id
		sub.expect("PUBLISH a=1 q2")
		second := sub.id
		sub.silent()
		sub.subscribe(filter("b", 0))
		pub.publish(publish("b", "QoS 0 does not count", 0, 0))
		sub.expect("PUBLISH b=QoS 0 does not count q0")
		sub.publish(publish("c", "x", 2, 9))
		sub.send(ack(packet.PUBACK, first))
		sub.expect("PUBLISH a=2 q1")
		third := sub.id
		// QoS 2 has a place until PUBCOMP.
		sub.send(ack(packet.PUBREC, second))
		sub.expect("PUBREL")
		sub.silent()
		sub.send(ack(packet.PUBCOMP, second))
		sub.expect("PUBLISH a=3 q2")
		fourth := sub.id
		sub.silent()
		sub.send(ack(packet.PUBACK, third))
		// A refusal gives the place back.
		sub.send(&packet.Ack{Type: packet.PUBREC, ID: fourth, Reason: packet.QuotaExceeded})
		pub.publish(publish("a", "4", 1, 1), publish("a", "5", 1, 1))
		sub.expect("PUBLISH a=4 q1", "PUBLISH a=5 q1")
		sub.silent()
	})
}

// It holds for what is sent again too.
func TestReceiveMaximumAtResume(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.subscriber(limited("sub", 3), filter("a", 1))
		pub := s.connect(clean("pub"))
		for i := range uint16(4) {
			pub.publish(publish("a", fmt.Sprint(i), 1, i+1))
		}
		sub.expect("PUBLISH a=0 q1", "PUBLISH a=1 q1", "PUBLISH a=2 q1")
		sub.cut()
		sub = s.open(limited("sub", 1))
		sub.expect("CONNACK Success present")
		sub.expect("PUBLISH a=0 q1 dup")
		sub.silent()
		for i := 1; i < 3; i++ {
			sub.send(ack(packet.PUBACK, sub.id))
			sub.expect(fmt.Sprintf("PUBLISH a=%d q1 dup", i))
			sub.silent()
		}
		sub.send(ack(packet.PUBACK, sub.id))
		sub.take("PUBLISH a=3 q1")
	})
}

// A client that has more messages on their way than the server takes is sent away.
func TestReceiveMaximumOfServer(t *testing.T) {
	v5(t, func(s *site) {
		w := s.connect(clean("a"))
		n := w.connack.Properties.ReceiveMaximum
		if n == 0 || n > 1000 {
			s.lacks("the server takes too many messages for this test")
		}
		for id := range n {
			w.send(publish("a", "x", 2, id+1))
			w.expect(fmt.Sprintf("PUBREC %d", id+1))
		}
		w.send(publish("a", "x", 0, 0), subscribe(1, filter("b", 0)))
		w.expect("SUBACK 1 00")
		w.send(ack(packet.PUBREL, 1))
		w.expect("PUBCOMP 1")
		w.send(publish("a", "x", 1, 1))
		w.expect("PUBACK 1")
		w.send(publish("a", "x", 2, n+1))
		w.expect(fmt.Sprintf("PUBREC %d", n+1))
		w.send(publish("a", "x", 2, n+2))
		w.refused(packet.ReceiveMaximumExceeded)
	})
}

// small is a CONNECT of a client that takes packets of up to n bytes.
func small(id string, n uint32) packet.Connect {
	c := kept(id)
	c.Properties.MaximumPacketSize = n
	return c
}

// A message that is too large for a client is done with: those behind it come.
func TestMaximumPacketSize(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.subscriber(small("sub", 100), filter("a", 2))
		pub := s.connect(clean("pub"))
		head := 2 + 2 + len(s.topic("a")) + 2 + 1
		fits := strings.Repeat("x", 100-head)
		for qos := range packet.QoS(3) {
			pub.publish(publish("a", fits+"xxx", qos, 1), publish("a", "next", qos, 2))
			sub.take(fmt.Sprintf("PUBLISH a=next q%d", qos))
		}
		pub.publish(publish("a", fits, 1, 1))
		sub.take("PUBLISH a=" + fits + " q1")
		if sub.size != 100 {
			s.t.Errorf("a packet of %d bytes, want 100", sub.size)
		}
		sub.leave()
		pub.publish(publish("a", fits+"xxx", 1, 1), retained("a", fits+"yyy", 1, 2), publish("a", "queued", 1, 3))
		sub = s.connect(small("sub", 100))
		sub.take("PUBLISH a=queued q1")
		sub.subscribe(filter("a", 1))
		sub.silent()
	})
}

// A packet that is larger than the server takes ends the connection.
func TestMaximumPacketSizeOfServer(t *testing.T) {
	v5(t, func(s *site) {
		w := s.connect(clean("a"))
		n := int(w.connack.Properties.MaximumPacketSize)
		if n == 0 || n > 1<<20 {
			s.lacks("the server takes packets that are too large for this test")
		}
		p := publish("a", "", 1, 1)
		p.Payload = make([]byte, n-p.Size(s.v)-len(s.topic("a"))+1-2)
		p.Payload = p.Payload[:len(p.Payload)-(len(w.encode(p))-n)]
		w.publish(p)
		p.Payload = append(p.Payload, 0)
		w.send(p)
		w.refused(packet.PacketTooLarge)
	})
}

// What a server explains must not make a packet larger than its client takes.
func TestReasonsFit(t *testing.T) {
	v5(t, func(s *site) {
		const n = 24
		c := small("a", n)
		c.Properties.HasAuthMethod, c.Properties.AuthMethod = true, "nobody knows it"
		w := s.open(c)
		w.turnedAway(packet.BadAuthenticationMethod)
		s.fits(w, n)

		// What the client has to know is in the CONNACK, or it is not let in.
		for _, most := range []uint32{1, 4, 5, 10, 15, 20, 30, 60} {
			for _, id := range []string{"a", ""} {
				c := small(id, most)
				c.CleanStart, c.Properties.RequestResponse = true, true
				w := s.open(c)
				switch w.read() {
				case "CONNACK Success":
					if id == "" && w.assigned() == "" {
						s.t.Errorf("a client that takes %d bytes is not told its identifier", most)
					}
				case "CONNACK Packet too large":
					w.expect("closed")
				case "closed":
					if most >= 5 && under.name == "gateway" {
						s.t.Errorf("a client that takes %d bytes is not told why it is not let in", most)
					}
				}
				s.fits(w, int(most))
				w.cut()
			}
		}

		w = s.connect(small("a", 100))
		s.fits(w, 100)
		w.send(subscribe(1, filter("=a/#/b", 0)))
		if got := w.read(); got != "closed" {
			s.fits(w, 100)
		}

		w = s.connect(small("a", 60))
		s.fits(w, 60)
		w.raw([]byte{0x36, 5, 0, 1, 'a', 0, 1})
		w.refused(packet.MalformedPacket)
		s.fits(w, 60)
		w = s.connect(small("b", 60))
		w.send(ack(packet.PUBREL, 9))
		w.expect("PUBCOMP 9…")
		s.fits(w, 60)
		w.send(publish("a", "", 1, 1), unsubscribe(1, "a"))
		w.expect("PUBACK 1")
		s.fits(w, 60)
		w.expect("UNSUBACK 1…")
		s.fits(w, 60)
	})
}

// Of the acknowledgement of many filters nothing can be left out.
func TestManyFiltersFit(t *testing.T) {
	v5(t, func(s *site) {
		var filters []packet.Subscription
		var names []string
		for i := range 40 {
			names = append(names, fmt.Sprint("a/", i))
			filters = append(filters, filter(names[i], 0))
		}
		for _, p := range []encoder{subscribe(1, filters...), unsubscribe(1, names...)} {
			w := s.connect(small("c", 44))
			w.send(p)
			w.refused(packet.PacketTooLarge)
			s.fits(w, 44)
			w = s.connect(small("c", 45))
			w.send(p)
			if got := w.read(); !strings.Contains(got, "UBACK 1 ") {
				s.t.Errorf("got %q, want an acknowledgement", got)
			}
			s.fits(w, 45)
		}
	})
}

func (s *site) fits(w *wire, n int) {
	s.t.Helper()
	if w.size > n {
		s.t.Errorf("a packet of %d bytes for a client that takes %d", w.size, n)
	}
}

// A client that wants no problem information gets none, but with CONNACK and DISCONNECT.
func TestNoProblemInformation(t *testing.T) {
	v5(t, func(s *site) {
		c := clean("a")
		c.Properties.NoProblemInfo = true
		w := s.connect(c)
		plain := func(line string) {
			s.t.Helper()
			w.reason, w.user = "", nil
			w.expect(line)
			if w.reason != "" || len(w.user) > 0 {
				s.t.Errorf("%s with reason %q and user properties %v", line, w.reason, w.user)
			}
		}
		w.send(subscribe(1, filter("$SYS/#", 0), filter("a", 1)), unsubscribe(2, "b"), publish("none", "", 1, 3), ack(packet.PUBREL, 4), publish("none", "", 2, 5))
		plain("SUBACK 1 00 01")
		plain("UNSUBACK 2 11")
		plain("PUBACK 3")
		plain("PUBCOMP 4…")
		plain("PUBREC 5")
		// Those of a message are not the server's.
		p := publish("a", "x", 0, 0)
		p.Properties = &packet.PublishProperties{User: []packet.UserProperty{{Name: "a", Value: "b"}}}
		w.send(p)
		w.expect("PUBLISH a=x q0")
		if w.last.Properties == nil || len(w.last.Properties.User) != 1 {
			s.t.Error("the user property of a message is lost")
		}
	})
}

// A refusal is explained, unless the client does not want that or takes no packet so large.
func TestRefusalsExplained(t *testing.T) {
	v5(t, func(s *site) {
		for _, tt := range []struct {
			name      string
			size      uint32
			unwanted  bool
			explained bool
		}{{"wanted", 0, false, true}, {"no room", 30, false, false}, {"unwanted", 0, true, false}} {
			c := small("a", tt.size)
			c.CleanStart = true
			c.Properties.NoProblemInfo = tt.unwanted
			w := s.connect(c)
			for _, p := range []struct {
				sent encoder
				line string
			}{
				{publish("=$SYS/x", "", 1, 1), "PUBACK 1 Not authorized"},
				{publish("=$SYS/x", "", 2, 2), "PUBREC 2 Not authorized"},
				{subscribe(3, filter("a", 1), filter("a#", 1)), "SUBACK 3 01 8f"},
				{unsubscribe(4, "a#"), "UNSUBACK 4 8f"},
				{ack(packet.PUBREL, 5), "PUBCOMP 5 Packet Identifier not found"},
				{ack(packet.PUBREC, 6), "PUBREL Packet Identifier not found"},
			} {
				w.reason = ""
				w.send(p.sent)
				w.expect(p.line)
				if tt.explained != (w.reason != "") || tt.size > 0 && w.size > int(tt.size) {
					s.t.Errorf("%s: %s with reason %q, %d bytes", tt.name, p.line, w.reason, w.size)
				}
			}
			w.leave()
		}
	})
}
