package conformance

import (
	"strings"
	"testing"

	"gateway/broker/packet"
)

// connectBytes writes a CONNECT by hand: flags, then what follows the keep alive, for 3.1.1 or,
// without properties, for 5.0.
func (s *site) connectBytes(flags byte, fields ...string) []byte {
	rest := strings.Join(fields, "")
	if s.v == packet.V5 {
		rest = "\x00" + rest
	}
	return frame(0x10, s.protocol()+string([]byte{flags, 0, 60})+rest)
}

// protocol returns the name and the level with which a CONNECT begins.
func (s *site) protocol() string {
	name := "MQTT"
	if s.v == packet.V31 {
		name = "MQIsdp"
	}
	return str(name) + string([]byte{byte(s.v)})
}

// frame puts a fixed header before the body of a packet of less than 2 MiB.
func frame(first byte, body string) []byte {
	n := len(body)
	switch {
	case n < 1<<7:
		return append([]byte{first, byte(n)}, body...)
	case n < 1<<14:
		return append([]byte{first, byte(n) | 0x80, byte(n >> 7)}, body...)
	default:
		return append([]byte{first, byte(n) | 0x80, byte(n>>7) | 0x80, byte(n >> 14)}, body...)
	}
}

// str is a string with its length before it, props are properties with theirs.
func str(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }

func props(ps ...string) string {
	s := strings.Join(ps, "")
	return string([]byte{byte(len(s))}) + s
}

// Whatever comes before a CONNECT ends the connection, and nothing is said.
func TestFirstPacket(t *testing.T) {
	every(t, func(s *site) {
		for _, p := range []encoder{
			publish("a", "x", 0, 0), subscribe(1, filter("a", 0)), unsubscribe(1, "a"),
			&packet.Ping{Type: packet.PINGREQ}, &packet.Disconnect{}, ack(packet.PUBACK, 1),
		} {
			w := s.dial()
			w.send(p)
			w.expect("closed")
		}
	})
}

func TestSecondConnect(t *testing.T) {
	every(t, func(s *site) {
		c := clean("a")
		w := s.connect(c)
		w.send(&c)
		w.refused(packet.ProtocolError)
	})
}

func TestProtocolName(t *testing.T) {
	every(t, func(s *site) {
		for _, name := range []string{"mqtt", "MQTTX", "HTTP", ""} {
			w := s.dial()
			w.raw(frame(0x10, str(name)+string([]byte{byte(s.v), 2, 0, 60, 0})+str("a")))
			w.expect("closed")
		}
	})
}

// A level that is not known is answered as 3.1.1 does, whose CONNACK every client understands.
func TestProtocolLevel(t *testing.T) {
	v311(t, func(s *site) {
		for _, level := range []byte{0, 1, 6, 0x7f} {
			w := s.dial()
			w.raw(frame(0x10, str("MQTT")+string([]byte{level, 2, 0, 60})+str(s.prefix)))
			w.expect("CONNACK Unsupported Protocol Version", "closed")
		}
	})
}

func TestReservedConnectFlag(t *testing.T) {
	both(t, func(s *site) {
		w := s.dial()
		w.raw(s.connectBytes(0x03, str(s.prefix)))
		w.turnedAway(packet.MalformedPacket)
	})
}

// Will QoS and Will Retain go with a will only, and Will QoS is never 3.
func TestWillFlags(t *testing.T) {
	both(t, func(s *site) {
		will := str("w") + str("")
		if s.v == packet.V5 {
			will = "\x00" + will
		}
		for flags, fields := range map[byte]string{
			0x0a: "", 0x12: "", 0x1a: "", // QoS without will
			0x22: "",   // retain without will
			0x1e: will, // QoS 3
		} {
			w := s.dial()
			w.raw(s.connectBytes(flags, str(s.prefix), fields))
			w.turnedAway(packet.MalformedPacket)
		}
	})
}

// The flags tell which fields there are: none may be missing, none too many.
func TestConnectFields(t *testing.T) {
	both(t, func(s *site) {
		id, will := str(s.prefix), str("w")
		if s.v == packet.V5 {
			will = "\x00" + will
		}
		for name, b := range map[string][]byte{
			"no client identifier":        s.connectBytes(0x02),
			"no will topic":               s.connectBytes(0x06, id),
			"no will payload":             s.connectBytes(0x06, id, will),
			"a will without its flag":     s.connectBytes(0x02, id, will, str("x")),
			"no user name":                s.connectBytes(0x82, id),
			"a user name without flag":    s.connectBytes(0x02, id, str("user")),
			"no password":                 s.connectBytes(0xc2, id, str("user")),
			"a password without flag":     s.connectBytes(0x82, id, str("user"), str("password")),
			"half a client identifier":    s.connectBytes(0x02, "\x00\x05ab"),
			"half a keep alive":           frame(0x10, str("MQTT")+string([]byte{byte(s.v), 2, 0})),
			"nothing but a protocol name": frame(0x10, str("MQTT")),
		} {
			w := s.dial()
			w.raw(b)
			got := w.read()
			if got == "CONNACK Malformed Packet" && s.v == packet.V5 {
				got = w.read()
			}
			if got != "closed" {
				t.Errorf("%s: got %q, want the end of the connection", name, got)
			}
		}
	})
}

// All fields together, in the order of the standard, are understood.
func TestFieldOrder(t *testing.T) {
	every(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("will", 1))
		c := clean("all")
		c.Will = &packet.Will{Topic: "will", Payload: []byte("bye"), QoS: 1}
		c.HasUsername, c.Username, c.HasPassword, c.Password = true, "user", true, []byte("pass")
		s.connect(c).cut()
		sub.expect("PUBLISH will=bye q1")
	})
}

// A password without user name is an error before 5.0.
func TestPasswordWithoutUserName(t *testing.T) {
	every(t, func(s *site) {
		w := s.dial()
		w.raw(s.connectBytes(0x42, str(s.prefix), str("password")))
		if s.v == packet.V5 {
			w.expect("CONNACK Success")
		} else {
			w.expect("closed")
		}
	})
}

func TestClientIdentifier(t *testing.T) {
	every(t, func(s *site) {
		const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
		for _, id := range []string{"0", "z", letters[:23], letters[23:46], letters[39:]} {
			w := s.dial()
			w.raw(s.connectBytes(0x02, str(id)))
			w.expect("CONNACK Success")
		}
	})
}

func TestEmptyClientIdentifier(t *testing.T) {
	both(t, func(s *site) {
		first, second := s.connect(clean("")), s.connect(clean(""))
		first.subscribe(filter("a", 1))
		second.publish(publish("a", "hello", 0, 0))
		first.expect("PUBLISH a=hello q0")
	})
}

// In 5.0 the server tells the client identifier that it has assigned, and it can be used.
func TestAssignedClientIdentifier(t *testing.T) {
	v5(t, func(s *site) {
		first, second := s.connect(expiring("", 100)), s.connect(clean(""))
		id, other := first.assigned(), second.assigned()
		if id == "" || other == "" || id == other {
			s.t.Fatalf("client identifiers %q and %q, want two different ones", id, other)
		}
		first.cut()
		again := packet.Connect{ClientID: id}
		w := s.dial()
		w.raw(again.Append(nil, s.v))
		w.expect("CONNACK Success present")
		if w.assigned() != "" {
			s.t.Errorf("a client that has an identifier was assigned %q", w.assigned())
		}
	})
}

func (w *wire) assigned() string {
	if p := w.connack.Properties; p != nil {
		return p.AssignedClientID
	}
	return ""
}

// Before 5.0 a client without identifier has to ask for a clean session.
func TestEmptyClientIdentifierKept(t *testing.T) {
	v311(t, func(s *site) {
		w := s.open(packet.Connect{})
		w.expect("CONNACK Client Identifier not valid", "closed")
	})
}

// An identifier that the gateway keeps for itself is refused.
func TestPrivateClientIdentifier(t *testing.T) {
	every(t, func(s *site) {
		w := s.dial()
		w.raw(s.connectBytes(0x02, str("$bridge")))
		w.expect("CONNACK Client Identifier not valid", "closed")
	})
}

// A CONNECT with a text that is not UTF-8, or has a null character, is refused.
func TestConnectText(t *testing.T) {
	every(t, func(s *site) {
		id, none := str(s.prefix), ""
		if s.v == packet.V5 {
			none = "\x00"
		}
		for _, bad := range []string{"\xff", "\xed\xa0\x80", "a\x00b", "\xc0\x80"} {
			for _, b := range [][]byte{
				s.connectBytes(0x02, str(bad)),
				s.connectBytes(0x06, id, none, str(bad), str("")),
				s.connectBytes(0x82, id, str(bad)),
			} {
				w := s.dial()
				w.raw(b)
				w.turnedAway(packet.MalformedPacket, packet.ClientIDNotValid, packet.TopicNameInvalid)
			}
		}
	})
}

// The first answer is a CONNACK, also for a client that does not wait for it.
func TestPacketsBehindConnect(t *testing.T) {
	every(t, func(s *site) {
		c := clean("a")
		w := s.dial()
		w.send(&c, subscribe(1, filter("a", 0)), publish("a", "x", 0, 0), &packet.Ping{Type: packet.PINGREQ})
		w.expect("CONNACK Success", "SUBACK 1 00", "PUBLISH a=x q0", "PINGRESP")
	})
}

// Nothing of what follows a refused CONNECT is done.
func TestPacketsBehindRefusal(t *testing.T) {
	both(t, func(s *site) {
		sub := s.subscriber(clean("sub"), filter("a", 1))
		w := s.dial()
		w.raw(append(s.connectBytes(0x03, str(s.prefix)), w.encode(publish("a", "x", 1, 1))...))
		w.turnedAway(packet.MalformedPacket)
		s.connect(clean("other")).publish(publish("a", "marker", 1, 1))
		sub.take("PUBLISH a=marker q1")
	})
}

// Of two connections with one client identifier the newer wins.
func TestTakeover(t *testing.T) {
	every(t, func(s *site) {
		first := s.connect(clean("a"))
		second := s.connect(clean("a"))
		if s.v == packet.V5 {
			first.refused(packet.SessionTakenOver)
		} else {
			first.expect("closed")
		}
		second.silent()
	})
}

func TestSessionPresent(t *testing.T) {
	both(t, func(s *site) {
		for _, tt := range []struct {
			c    packet.Connect
			line string
		}{
			{kept("a"), "CONNACK Success"},
			{kept("a"), "CONNACK Success present"},
			{clean("a"), "CONNACK Success"},
			{clean("a"), "CONNACK Success"},
			{kept("a"), "CONNACK Success"},
		} {
			w := s.open(tt.c)
			w.expect(tt.line)
			w.leave()
		}
	})
}

// A refusal says nothing of a session that there is, and leaves it alone.
func TestRefusalHidesSession(t *testing.T) {
	v5(t, func(s *site) {
		s.connect(kept("a")).leave()
		c := kept("a")
		c.Properties.HasAuthMethod, c.Properties.AuthMethod = true, "nobody knows it"
		s.open(c).turnedAway(packet.BadAuthenticationMethod)
		w := s.open(kept("a"))
		w.expect("CONNACK Success present")
	})
}

// A CONNACK without restrictions promises QoS 2, retained messages, wildcards and all the rest.
func TestCapabilities(t *testing.T) {
	v5(t, func(s *site) {
		c := clean("a")
		c.Will = &packet.Will{Topic: "w", QoS: 2, Retain: true}
		w := s.connect(c)
		p := w.connack.Properties
		if p == nil {
			p = new(packet.ConnackProperties)
		}
		if p.HasMaximumQoS || p.NoRetain || p.NoWildcard || p.NoSubscriptionID || p.NoShared {
			s.t.Errorf("the server does without %+v", *p)
		}
		if p.HasAuthMethod || p.AuthData != nil {
			s.t.Error("an authentication method, though the client had none")
		}
		if p.ResponseInformation != "" {
			s.t.Errorf("response information %q, though the client did not ask", p.ResponseInformation)
		}
		w.send(subscribe(1, filter("a", 0), filter("b/+", 1), filter("c/#", 2), filter("$share/g/d", 2)))
		w.expect("SUBACK 1 00 01 02 02")
		w.leave()
	})
}

func TestResponseInformation(t *testing.T) {
	v5(t, func(s *site) {
		c := clean("a")
		c.Properties.RequestResponse = true
		w := s.connect(c)
		if w.connack.Properties.ResponseInformation == "" {
			s.t.Error("no response information")
		}
	})
}

// Who has not begun enhanced authentication cannot go on with it.
func TestAuthWithoutMethod(t *testing.T) {
	v5(t, func(s *site) {
		for _, reason := range []packet.ReasonCode{packet.ContinueAuthentication, packet.Reauthenticate} {
			w := s.connect(clean("a"))
			w.send(&packet.Auth{Reason: reason, Method: "SCRAM-SHA-256"})
			w.refused(packet.ProtocolError)
		}
	})
}

func TestUnknownAuthMethod(t *testing.T) {
	v5(t, func(s *site) {
		c := clean("a")
		c.Properties.HasAuthMethod, c.Properties.AuthMethod = true, "nobody knows it"
		s.open(c).turnedAway(packet.BadAuthenticationMethod, packet.NotAuthorized)
	})
}
