package conformance

import (
	"testing"

	"gateway/broker/packet"
)

// v31 runs a test for 3.1 only.
func v31(t *testing.T, f func(*site)) { t.Helper(); each(t, f, packet.V31) }

// Version 3.1 has a name of its own, no Session Present, and the same messages.
func TestVersion31(t *testing.T) {
	v31(t, func(s *site) {
		sub := s.subscriber(kept("sub"), filter("a", 2))
		sub.leave()
		pub := s.connect(clean("pub"))
		pub.publish(publish("a", "0", 0, 0), publish("a", "1", 1, 1), publish("a", "2", 2, 2))
		sub = s.open(kept("sub"))
		if got := sub.read(); got != "CONNACK Success" {
			s.t.Fatal(got)
		}
		sub.take("PUBLISH a=1 q1", "PUBLISH a=2 q2")
		sub.send(unsubscribe(4, "a"))
		sub.expect("UNSUBACK 4")
		s.connect(clean("sub")).leave()
	})
}

// What 3.1 allows in a CONNECT and later versions do not, and what only it forbids. Sections are
// those of "MQTT V3.1 Protocol Specification".
func TestVersion31Connect(t *testing.T) {
	v31(t, func(s *site) {
		id := str(s.prefix)
		for _, tt := range []struct {
			section, name string
			flags         byte
			fields        string
			want          string
		}{
			{"3.1", "the unused bit", 0x03, id, "CONNACK Success"},
			{"3.1", "Will QoS and Will Retain without will", 0x3a, id, "CONNACK Success"},
			{"3.1", "Will QoS 3", 0x1e, id + str("w") + str(""), "closed"},
			{"3.1", "a user name that is missing", 0x82, id, "CONNACK Success"},
			{"3.1", "a password that is missing", 0xc2, id + str("user"), "CONNACK Success"},
			{"3.1", "both missing", 0xc2, id, "CONNACK Success"},
			{"3.1", "both there", 0xc2, id + str("user") + str("pass"), "CONNACK Success"},
			{"3.1", "half a user name", 0x82, id + "\x00\x05u", "closed"},
			{"3.1", "a password without user name", 0x42, id + str("pass"), "closed"},
			{"3.1", "a user name without flag", 0x02, id + str("user"), "closed"},
			{"3.1", "no client identifier", 0x02, "", "closed"},
			{"3.1", "an empty client identifier, clean", 0x02, str(""), "CONNACK Client Identifier not valid"},
			{"3.1", "an empty client identifier", 0x00, str(""), "CONNACK Client Identifier not valid"},
			{"3.1", "24 characters", 0x02, str("0123456789abcdefghijklmn"), "CONNACK Success"}, // it may be refused
		} {
			s.t.Run(tt.name, func(t *testing.T) {
				skipKnown(t)
				s := &site{t, s.v, s.prefix}
				w := s.dial()
				w.raw(s.connectBytes(tt.flags, tt.fields))
				if got := w.read(); got != tt.want {
					t.Errorf("[3.1 %s] %s: got %q, want %q", tt.section, tt.name, got, tt.want)
				}
				if tt.want != "CONNACK Success" && tt.want != "closed" {
					w.expect("closed")
				}
			})
		}
	})
}

// Flags that 3.1 uses for repetitions, and bits that it does not use.
func TestVersion31Bits(t *testing.T) {
	v31(t, func(s *site) {
		topic := str(s.topic("a"))
		for _, tt := range []struct {
			section, name string
			first         byte
			body          string
			want          string
		}{
			{"2.1", "SUBSCRIBE again", 0x8a, "\x00\x01" + topic + "\x01", "SUBACK 1 01"},
			{"2.1", "UNSUBSCRIBE again", 0xaa, "\x00\x02" + topic, "UNSUBACK 2"},
			{"2.1", "PUBREL again", 0x6a, "\x00\x03", "PUBCOMP 3"},
			{"2.1", "PUBLISH again at QoS 0", 0x38, topic, "PINGRESP"},
			{"3.8", "SUBSCRIBE with RETAIN", 0x83, "\x00\x01" + topic + "\x01", "SUBACK 1 01"},
			{"3.8", "SUBSCRIBE with upper bits", 0x82, "\x00\x01" + topic + "\xfd", "SUBACK 1 01"},
			{"3.8", "SUBSCRIBE with QoS 3", 0x82, "\x00\x01" + topic + "\x03", "closed"},
			{"3.8", "SUBSCRIBE at QoS 0", 0x80, "\x00\x01" + topic + "\x01", "closed"},
			{"3.10", "UNSUBSCRIBE at QoS 2", 0xa4, "\x00\x02" + topic, "closed"},
			{"3.6", "PUBREL at QoS 0", 0x60, "\x00\x03", "closed"},
			{"3.4", "PUBACK with flags", 0x4f, "\x00\x07", "PINGRESP"},
			{"3.7", "PUBCOMP with flags", 0x71, "\x00\x07", "PINGRESP"},
			{"3.12", "PINGREQ with flags", 0xcf, "", "PINGRESP"},
			{"3.14", "DISCONNECT with flags", 0xe1, "", "closed"},
			{"2.1", "the reserved type 15", 0xf0, "", "closed"},
		} {
			s.t.Run(tt.name, func(t *testing.T) {
				skipKnown(t)
				s := &site{t, s.v, s.prefix}
				w := s.connect(clean(tt.name))
				w.raw(frame(tt.first, tt.body))
				if tt.want == "PINGRESP" && tt.first != 0xcf {
					w.silent()
				} else if got := w.read(); got != tt.want {
					t.Errorf("[3.1 %s] %s: got %q, want %q", tt.section, tt.name, got, tt.want)
				}
			})
		}
	})
}

// A DISCONNECT with bits that are not used is one all the same: there is no will.
func TestVersion31Disconnect(t *testing.T) {
	v31(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("w", 0))
		c := clean("c")
		c.Will = &packet.Will{Topic: "w", Payload: []byte("bye")}
		w := s.connect(c)
		w.raw([]byte{0xef, 0})
		w.expect("closed")
		s.connect(clean("c")).leave()
		sub.silent()
	})
}
