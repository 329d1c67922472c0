package conformance

import (
	"reflect"
	"strings"
	"testing"

	"gateway/broker/packet"
)

// Packets may come one byte at a time.
func TestByteByByte(t *testing.T) {
	every(t, func(s *site) {
		c := clean("a")
		w := s.dial()
		for _, b := range w.encode(&c, subscribe(1, filter("a", 1)), publish("a", "x", 1, 2)) {
			w.raw([]byte{b})
		}
		w.expect("CONNACK Success", "SUBACK 1 01")
		got := map[string]bool{w.read(): true, w.read(): true}
		if !got["PUBACK 2"] || !got["PUBLISH a=x q1"] {
			s.t.Errorf("got %v", got)
		}
	})
}

// Or a hundred at a time, the last one cut in two.
func TestManyInOne(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a", 0))
		var packets []encoder
		for range 100 {
			packets = append(packets, publish("a", "x", 0, 0))
		}
		w := s.connect(clean("a"))
		b := w.encode(append(packets, &packet.Ping{Type: packet.PINGREQ})...)
		w.raw(b[:len(b)-9])
		for range 99 {
			sub.expect("PUBLISH a=x q0")
		}
		w.raw(b[len(b)-9:])
		w.expect("PINGRESP")
		sub.expect("PUBLISH a=x q0")
		sub.silent()
	})
}

// Remaining Length has one to four bytes.
func TestRemainingLength(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a", 0))
		pub := s.connect(clean("pub"))
		for _, n := range []int{0, 1, 100, 127, 128, 16_383 - 30, 16_383, 16_384, 70_000} {
			pub.publish(publish("a", strings.Repeat("x", n), 0, 0))
			sub.expect("PUBLISH a=" + strings.Repeat("x", n) + " q0")
		}
		w := s.connect(clean("bad"))
		w.raw([]byte{0x30, 0xff, 0xff, 0xff, 0xff, 0x01})
		w.refused(packet.MalformedPacket)
	})
}

// The reserved flags of a fixed header are what the standard says, and other packets than a
// client may send end the connection.
func TestFixedHeader(t *testing.T) {
	both(t, func(s *site) {
		for name, b := range map[string][]byte{
			"PUBACK with flags":           {0x41, 2, 0, 1},
			"PUBREC with flags":           {0x52, 2, 0, 1},
			"PUBREL without flags":        {0x60, 2, 0, 1},
			"PUBREL with flags 0001":      {0x61, 2, 0, 1},
			"PUBREL with flags 0011":      {0x63, 2, 0, 1},
			"PUBCOMP with flags":          {0x78, 2, 0, 1},
			"SUBSCRIBE with flags 0011":   {0x83, 0},
			"SUBSCRIBE with flags 1010":   {0x8a, 0},
			"UNSUBSCRIBE with flags 0000": {0xa0, 0},
			"UNSUBSCRIBE with flags 0110": {0xa6, 0},
			"PINGREQ with flags":          {0xc1, 0},
			"DISCONNECT with flags":       {0xe1, 0},
			"AUTH with flags":             {0xf1, 0},
			"reserved packet type 0":      {0x00, 0},
			"CONNACK":                     {0x20, 2, 0, 0},
			"SUBACK":                      {0x90, 3, 0, 1, 0},
			"UNSUBACK":                    {0xb0, 2, 0, 1},
			"PINGRESP":                    {0xd0, 0},
			"PUBACK that is too short":    {0x40, 1, 0},
			"PUBACK with identifier 0":    {0x40, 2, 0, 0},
			"PUBREL with identifier 0":    {0x62, 2, 0, 0},
		} {
			s.t.Run(name, func(t *testing.T) {
				skipKnown(t)
				s := &site{t, s.v, s.prefix}
				w := s.connect(clean(""))
				w.raw(b)
				w.refused(packet.MalformedPacket, packet.ProtocolError)
			})
		}
	})
}

// A DISCONNECT with reserved flags is none: the will is published.
func TestReservedFlagsOfDisconnect(t *testing.T) {
	both(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("w", 0))
		w := s.connect(leaving("a", packet.Will{Topic: "w", Payload: []byte("bye")}))
		w.raw([]byte{0xe1, 0})
		w.refused(packet.MalformedPacket)
		sub.expect("PUBLISH w=bye q0")
	})
}

// Nothing is done with what comes behind a DISCONNECT.
func TestBehindDisconnect(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a", 1))
		w := s.connect(clean("a"))
		w.send(&packet.Disconnect{}, publish("a", "too late", 0, 0))
		w.expect("closed")
		s.marker("a")
		sub.take("PUBLISH a=marker q1")
	})
}

// A DISCONNECT has one of the codes that it may have, and no property of the server's.
func TestBadDisconnect(t *testing.T) {
	v5(t, func(s *site) {
		for _, b := range [][]byte{{0xe0, 1, 0x01}, {0xe0, 1, 0x11}, {0xe0, 6, 0, 4, 0x1c, 0, 1, 'x'}} {
			w := s.connect(clean("a"))
			w.raw(b)
			w.refused(packet.ProtocolError, packet.MalformedPacket)
		}
	})
}

// Properties that may not stand where they are, or twice, or have another value, end the
// connection.
func TestBadProperties(t *testing.T) {
	v5(t, func(s *site) {
		malformed, protocol := packet.MalformedPacket, packet.ProtocolError
		pub := func(ps ...string) []byte { return frame(0x30, str("a")+props(ps...)) }
		sub := func(ps ...string) []byte { return frame(0x82, "\x00\x01"+props(ps...)+str("a")+"\x00") }
		for _, tt := range []struct {
			name   string
			b      []byte
			reason packet.ReasonCode
		}{
			{"Payload Format twice", pub("\x01\x00\x01\x00"), protocol},
			{"Payload Format 2", pub("\x01\x02"), protocol},
			{"Message Expiry twice", pub("\x02\x00\x00\x00\x01\x02\x00\x00\x00\x01"), protocol},
			{"Content Type twice", pub("\x03", str("a"), "\x03", str("a")), protocol},
			{"Content Type not UTF-8", pub("\x03", str("\xff")), malformed},
			{"Response Topic not UTF-8", pub("\x08", str("\xff")), malformed},
			{"Response Topic with +", pub("\x08", str("a/+")), protocol},
			{"Response Topic with #", pub("\x08", str("#")), protocol},
			{"Response Topic that is empty", pub("\x08", str("")), packet.TopicNameInvalid},
			{"Correlation Data twice", pub("\x09", str("a"), "\x09", str("a")), protocol},
			{"Topic Alias twice", pub("\x23\x00\x01\x23\x00\x01"), protocol},
			{"Subscription Identifier of a client", pub("\x0b\x01"), protocol},
			{"Session Expiry in PUBLISH", pub("\x11\x00\x00\x00\x01"), malformed},
			{"unknown property", pub("\x7f\x00"), malformed},
			{"User Property with a bad name", pub("\x26", str("\xff"), str("a")), malformed},
			{"User Property with a bad value", pub("\x26", str("a"), str("a\x00")), malformed},
			{"User Property without value", pub("\x26", str("a")), malformed},
			{"properties beyond the packet", frame(0x30, str("a")+"\x09\x26"), malformed},
			{"Property Length of five bytes", frame(0x30, str("a")+"\x80\x80\x80\x80\x00"), malformed},
			{"Subscription Identifier 0", sub("\x0b\x00"), protocol},
			{"Subscription Identifier twice", sub("\x0b\x01\x0b\x02"), protocol},
			{"Reason String in SUBSCRIBE", sub("\x1f", str("why")), malformed},
			{"No Local on a shared subscription", frame(0x82, "\x00\x01\x00"+str("$share/g/a")+"\x04"), protocol},
			{"PUBACK with a code of CONNACK", frame(0x40, "\x00\x01\x84"), protocol},
			{"PUBREL with a code of PUBACK", frame(0x62, "\x00\x01\x10"), protocol},
		} {
			s.t.Run(tt.name, func(t *testing.T) {
				skipKnown(t)
				s := &site{t, s.v, s.prefix}
				w := s.connect(clean(""))
				w.raw(tt.b)
				w.refused(tt.reason)
			})
		}
	})
}

func TestBadConnectProperties(t *testing.T) {
	v5(t, func(s *site) {
		malformed, protocol := packet.MalformedPacket, packet.ProtocolError
		connect := func(ps ...string) []byte {
			return frame(0x10, str("MQTT")+"\x05\x02\x00\x3c"+props(ps...)+str(s.prefix))
		}
		for _, tt := range []struct {
			name   string
			b      []byte
			reason packet.ReasonCode
		}{
			{"Receive Maximum 0", connect("\x21\x00\x00"), protocol},
			{"Receive Maximum twice", connect("\x21\x00\x01\x21\x00\x01"), protocol},
			{"Maximum Packet Size 0", connect("\x27\x00\x00\x00\x00"), protocol},
			{"Session Expiry twice", connect("\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01"), protocol},
			{"Request Problem Information 2", connect("\x17\x02"), protocol},
			{"Request Response Information 2", connect("\x19\x02"), protocol},
			{"Authentication Data without method", connect("\x16", str("a")), protocol},
			{"Topic Alias", connect("\x23\x00\x01"), malformed},
			{"Will Delay outside of the will", connect("\x18\x00\x00\x00\x01"), malformed},
			{"no properties at all", frame(0x10, str("MQTT")+"\x05\x02\x00\x3c"), malformed},
			{"Will with a Topic Alias", frame(0x10, str("MQTT")+"\x05\x06\x00\x3c\x00"+str(s.prefix)+props("\x23\x00\x01")+str("w")+str("")), malformed},
			{"Will with a + in its Response Topic", frame(0x10, str("MQTT")+"\x05\x06\x00\x3c\x00"+str(s.prefix)+props("\x08", str("+"))+str("w")+str("")), protocol},
		} {
			s.t.Run(tt.name, func(t *testing.T) {
				skipKnown(t)
				s := &site{t, s.v, s.prefix}
				w := s.dial()
				w.raw(tt.b)
				w.turnedAway(tt.reason)
			})
		}
	})
}

// What a publisher says of its message, its subscribers are told.
func TestForwardedProperties(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.subscriber(kept("sub"), filter("a", 2))
		old := s.dialAs(packet.V311)
		c := clean("old")
		old.send(&c)
		old.expect("CONNACK Success")
		old.subscribe(filter("a", 2))
		pub := s.connect(clean("pub"))
		p := publish("a", "x", 0, 1)
		p.Properties = &packet.PublishProperties{
			PayloadFormat: 1, ContentType: "text/\uFEFFplain", ResponseTopic: "answer/here", CorrelationData: []byte("\x00\xff"),
			User: []packet.UserProperty{{Name: "b", Value: "1"}, {Name: "a", Value: ""}, {Name: "b", Value: "\uFEFF1"}, {Name: "", Value: "3"}},
		}
		for qos := range packet.QoS(3) {
			p.QoS = qos
			pub.publish(p)
			line := "PUBLISH a=x q" + string('0'+rune(qos))
			sub.take(line)
			if !reflect.DeepEqual(sub.last.Properties, p.Properties) {
				s.t.Errorf("QoS %d: got %+v, want %+v", qos, sub.last.Properties, p.Properties)
			}
			old.take(line)
		}
		sub.leave()
		p.Retain = true
		pub.publish(p)
		sub = s.connect(kept("sub"))
		sub.take("PUBLISH a=x q2")
		if !reflect.DeepEqual(sub.last.Properties, p.Properties) {
			s.t.Errorf("queued: got %+v, want %+v", sub.last.Properties, p.Properties)
		}
		sub = s.subscriber(clean("late"), filter("a", 0))
		sub.take("PUBLISH a=x q0 retain")
		if !reflect.DeepEqual(sub.last.Properties, p.Properties) {
			s.t.Errorf("retained: got %+v, want %+v", sub.last.Properties, p.Properties)
		}
	})
}

// What is there is forwarded though it says nothing: a payload of unspecified format, an empty
// content type, empty correlation data.
func TestForwardedNothing(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.subscriber(kept("sub"), filter("a", 2), filter("w", 2))
		sent := packet.PublishProperties{PayloadUnspecified: true, EmptyContentType: true, CorrelationData: []byte{}}
		check := func(w *wire, line string) {
			s.t.Helper()
			w.take(line)
			if got := w.last.Properties; !reflect.DeepEqual(got, &sent) {
				s.t.Errorf("%s: got %+v, want %+v", line, got, &sent)
			}
		}
		pub := s.connect(clean("pub"))
		p := publish("a", "x", 0, 1)
		p.Properties = &sent
		for qos := range packet.QoS(3) {
			p.QoS = qos
			pub.publish(p)
			check(sub, "PUBLISH a=x q"+string('0'+rune(qos)))
		}
		s.connect(leaving("a", packet.Will{Topic: "w", Payload: []byte("bye"), QoS: 1, Properties: &sent})).cut()
		check(sub, "PUBLISH w=bye q1")
		sub.leave()
		p.Retain = true
		pub.publish(p)
		check(s.connect(kept("sub")), "PUBLISH a=x q2")
		check(s.subscriber(clean("late"), filter("a", 0)), "PUBLISH a=x q0 retain")
	})
}

// A length with more bytes than it needs is malformed.
func TestPaddedLength(t *testing.T) {
	v5(t, func(s *site) {
		a := str(s.topic("a"))
		for _, tt := range []struct {
			name string
			b    []byte
		}{
			{"Remaining Length", []byte("\xc0\x80\x00")},
			{"Property Length", frame(0x30, a+"\x80\x00")},
			{"Subscription Identifier", frame(0x82, "\x00\x01\x03\x0b\x81\x00"+a+"\x00")},
		} {
			s.t.Run(tt.name, func(t *testing.T) {
				skipKnown(t)
				s := &site{t, s.v, s.prefix}
				w := s.connect(clean("a"))
				w.raw(tt.b)
				w.refused(packet.MalformedPacket)
			})
		}
		s.t.Run("CONNECT", func(t *testing.T) {
			skipKnown(t)
			s := &site{t, s.v, s.prefix}
			w := s.dial()
			body := str("MQTT") + "\x05\x02\x00\x3c\x00" + str(s.prefix)
			w.raw([]byte(string([]byte{0x10, byte(len(body)) | 0x80, 0}) + body))
			w.turnedAway(packet.MalformedPacket)
		})
	})
}

// Before 5.0 no statement forbids that.
func TestPaddedLengthAllowed(t *testing.T) {
	each(t, func(s *site) {
		w := s.connect(clean("a"))
		w.raw([]byte("\xc0\x80\x00"))
		w.expect("PINGRESP")
	}, packet.V31, packet.V311)
}

// A server writes lengths with as few bytes as they need.
func TestShortestForm(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a", 0))
		s.connect(clean("pub")).publish(publish("a", "x", 0, 0))
		sub.expect("PUBLISH a=x q0")
		if want := 2 + 2 + len(s.topic("a")) + 1 + 1; sub.size != want {
			s.t.Errorf("PUBLISH of %d bytes, want %d", sub.size, want)
		}
	})
}
