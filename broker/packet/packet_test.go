package packet

import (
	"errors"
	"strings"
	"testing"
)

// An appender is any packet.
type appender interface {
	Append(dst []byte, v Version) []byte
}

// decode reads any packet but a ping.
func decode(d *Decoder, h Header, body []byte) (appender, error) {
	switch h.Type {
	case CONNECT:
		p, err := d.Connect(body)
		return &p, err
	case CONNACK:
		p, err := d.Connack(body)
		return &p, err
	case PUBLISH:
		p, err := d.Publish(h.Flags, body)
		return &p, err
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		p, err := d.Ack(h.Type, body)
		return &p, err
	case SUBSCRIBE:
		p, err := d.Subscribe(body)
		return &p, err
	case SUBACK, UNSUBACK:
		p, err := d.Suback(h.Type, body)
		return &p, err
	case UNSUBSCRIBE:
		p, err := d.Unsubscribe(body)
		return &p, err
	case DISCONNECT:
		p, err := d.Disconnect(body)
		return &p, err
	case AUTH:
		p, err := d.Auth(body)
		return &p, err
	}
	return &Ping{Type: h.Type}, nil
}

// str is a string with its length before it, props are properties with theirs.
func str(s string) string { return string(appendText(nil, s)) }

func props(ps ...string) string {
	s := strings.Join(ps, "")
	return string(appendVarint(nil, uint32(len(s)))) + s
}

func connectBody(v Version, flags byte, rest ...string) string {
	name := "MQTT"
	if v&^bridgeBit == V31 {
		name = "MQIsdp"
	}
	return str(name) + string([]byte{byte(v), flags, 0, 60}) + strings.Join(rest, "")
}

// A rule is one row of a clause table: a packet, and the reason for its refusal, Success if it
// is to be accepted.
type rule struct {
	clause string
	v      Version
	first  byte
	body   string
	reason ReasonCode
}

func (tt rule) check(t *testing.T) {
	t.Helper()
	h := Header{Type: Type(tt.first >> 4), Flags: tt.first & 0x0F, Length: len(tt.body)}
	_, err := decode(&Decoder{Version: tt.v}, h, []byte(tt.body))
	var refusal *Error
	switch {
	case tt.reason == Success:
		if err != nil {
			t.Errorf("[%s] %v %q: refused: %v", tt.clause, h.Type, tt.body, err)
		}
	case !errors.As(err, &refusal):
		t.Errorf("[%s] %v %q: err = %v, want %v", tt.clause, h.Type, tt.body, err, tt.reason)
	case refusal.Reason != tt.reason || refusal.Clause != tt.clause:
		t.Errorf("[%s] %v %q: err = %v, want %v", tt.clause, h.Type, tt.body, err, tt.reason)
	}
}

func TestText(t *testing.T) {
	for _, tt := range []rule{
		{"MQTT-1.5.4-1", V5, 0x30, str("a\xff") + "\x00", MalformedPacket},
		{"MQTT-1.5.4-1", V5, 0x30, str("a\xed\xa0\x80") + "\x00", MalformedPacket}, // U+D800
		{"MQTT-1.5.4-1", V311, 0x30, str("\xc0\x80"), MalformedPacket},             // overlong
		{"MQTT-1.5.4-1", V5, 0x30, str("\U0010FFFF") + "\x00", Success},
		{"MQTT-1.5.4-2", V5, 0x30, str("a\x00b") + "\x00", MalformedPacket},
		{"MQTT-1.5.4-1", V311, 0x82, "\x00\x01" + str("\xff") + "\x00", MalformedPacket},
		{"MQTT-1.5.4-2", V311, 0xA2, "\x00\x01" + str("\x00"), MalformedPacket},
		{"MQTT-1.5.4-1", V5, 0x10, connectBody(V5, 0x02, "\x00", str("\xff")), MalformedPacket},
		{"MQTT-1.5.4-1", V5, 0x10, connectBody(V5, 0x06, "\x00", str("c"), "\x00", str("\xff"), str("")), MalformedPacket},
		{"MQTT-1.5.4-1", V5, 0x10, connectBody(V5, 0x82, "\x00", str("c"), str("\xff")), MalformedPacket},
		{"MQTT-1.5.4-1", V5, 0x30, str("t") + props("\x26", str("a"), str("\xff")), MalformedPacket},
		{"MQTT-1.5.4-1", V5, 0x30, str("t") + props("\x26", str("\xff"), str("a")), MalformedPacket},
		{"MQTT-1.5.4-1", V5, 0x30, str("t") + props("\x03", str("\xff")), MalformedPacket},
		{"MQTT-1.5.4-1", V5, 0x30, str("t") + props("\x08", str("\xff")), MalformedPacket},
	} {
		tt.check(t)
	}

	d := Decoder{Version: V311}
	p, err := d.Publish(0, []byte(str("\uFEFFa")))
	if err != nil || p.Topic != "\uFEFFa" {
		t.Errorf("[MQTT-1.5.4-3] topic = %q, %v, want the byte order mark kept", p.Topic, err)
	}
}

func TestFrame(t *testing.T) {
	for _, tt := range []rule{
		{"4.13.1", V311, 0x40, "", MalformedPacket},
		{"4.13.1", V311, 0x40, "\x00\x01\x00", MalformedPacket}, // a reason before 5.0
		{"4.13.1", V311, 0xE0, "\x00", MalformedPacket},
		{"4.13.1", V311, 0x30, "\x00\x05a", MalformedPacket},
		{"4.13.1", V311, 0x32, str("a") + "\x01", MalformedPacket},
		{"4.13.1", V311, 0x82, "\x00\x01" + str("a"), MalformedPacket},
		{"4.13.1", V311, 0x20, "\x00\x00\x00", MalformedPacket},
		{"4.13.1", V311, 0x10, connectBody(V311, 0x02, str("c"), "x"), MalformedPacket},
		{"4.13.1", V311, 0xB0, "\x00\x01\x00", MalformedPacket}, // a reason before 5.0
		{"4.13.1", V5, 0x40, "\x00\x01\x00\x00\x00", MalformedPacket},
		{"4.13.1", V5, 0xE0, "\x00\x00\x00", MalformedPacket},
		{"4.13.1", V5, 0x30, str("a") + "\x02\x02\x00", MalformedPacket}, // half of a Message Expiry Interval
		{"1.5.5", V5, 0x30, str("a") + "\x80\x80\x80\x80\x00", MalformedPacket},
		{"MQTT-1.5.5-1", V5, 0x30, str("a") + "\x80\x00", MalformedPacket},                          // Property Length
		{"MQTT-1.5.5-1", V5, 0x30, str("a") + "\x03\x0b\x81\x00", MalformedPacket},                  // Subscription Identifier
		{"MQTT-1.5.5-1", V5, 0x82, "\x00\x01\x03\x0b\x81\x00" + str("a") + "\x00", MalformedPacket}, // of a SUBSCRIBE
		{"MQTT-1.5.5-1", V5, 0x30, str("a") + "\x06\xa6\x00\x00\x00\x00\x00", MalformedPacket},      // property identifier
		{"MQTT-1.5.5-1", V5, 0x10, connectBody(V5, 0x02, "\x80\x80\x00", str("c")), MalformedPacket},
		{"MQTT-1.5.5-1", V5, 0x30, str("a") + "\x03\x0b\x80\x01", Success}, // 128
		{"4.13.1", V5, 0x30, str("a") + "\x80", MalformedPacket},
	} {
		tt.check(t)
	}
}

func TestPacketIdentifier(t *testing.T) {
	for _, tt := range []rule{
		{"MQTT-2.2.1-3", V311, 0x32, str("a") + "\x00\x00", ProtocolError},
		{"MQTT-2.2.1-3", V311, 0x82, "\x00\x00" + str("a") + "\x00", ProtocolError},
		{"MQTT-2.2.1-3", V5, 0xA2, "\x00\x00\x00" + str("a"), ProtocolError},
		{"MQTT-2.2.1-3", V5, 0x40, "\x00\x00", ProtocolError},
		{"MQTT-2.2.1-3", V5, 0x62, "\x00\x00", ProtocolError},
		{"MQTT-2.2.1-3", V311, 0x90, "\x00\x00\x00", ProtocolError},
		{"MQTT-2.2.1-3", V311, 0x62, "\xff\xff", Success},
	} {
		tt.check(t)
	}
}

func TestProperties(t *testing.T) {
	publish := func(ps ...string) string { return str("t") + props(ps...) + "payload" }
	connect := func(ps ...string) string { return connectBody(V5, 0x02, props(ps...), str("c")) }
	for _, tt := range []rule{
		{"2.2.2.1", V5, 0x30, str("t") + "\x09\x26", MalformedPacket},
		{"2.2.2.1", V5, 0x30, str("t") + "\x03\x03" + str("text") + "payload", MalformedPacket}, // reaches into the payload
		{"2.2.2.2", V5, 0x30, publish("\x11\x00\x00\x00\x01"), MalformedPacket},                 // Session Expiry Interval
		{"2.2.2.2", V5, 0x30, publish("\x7f"), MalformedPacket},
		{"2.2.2.2", V5, 0x30, publish("\xff\x7f"), MalformedPacket},
		{"2.2.2.2", V5, 0x10, connect("\x23\x00\x01"), MalformedPacket}, // Topic Alias
		{"2.2.2.2", V5, 0x40, "\x00\x01\x00" + props("\x02\x00\x00\x00\x01"), MalformedPacket},
		{"2.2.2.2", V5, 0x82, "\x00\x01" + props("\x1f", str("why")) + str("a") + "\x00", MalformedPacket},
		{"2.2.2.2", V5, 0x30, publish("\x01\x00\x01\x00"), ProtocolError}, // twice
		{"2.2.2.2", V5, 0x10, connect("\x21\x00\x01\x21\x00\x01"), ProtocolError},
		{"2.2.2.2", V5, 0x82, "\x00\x01" + props("\x0b\x01\x0b\x02") + str("a") + "\x00", ProtocolError},
		{"3.3.2.3.8", V5, 0x30, publish("\x0b\x01\x0b\x02"), Success}, // several Subscription Identifiers
		{"3.3.2.3.7", V5, 0x30, publish("\x26", str("a"), str("b"), "\x26", str("a"), str("b")), Success},
		{"4.13.2", V5, 0x30, publish(strings.Repeat("\x26"+str("")+str(""), MaxProperties+1)), QuotaExceeded},
		{"4.13.2", V5, 0x30, publish(strings.Repeat("\x26"+str("")+str(""), MaxProperties)), Success},
		{"4.13.2", V5, 0x30, publish(strings.Repeat("\x0b\x01", MaxProperties+1)), QuotaExceeded},

		{"3.3.2.3.2", V5, 0x30, publish("\x01\x02"), ProtocolError},
		{"MQTT-3.3.2-8", V5, 0x30, publish("\x23\x00\x00"), TopicAliasInvalid},
		{"MQTT-3.3.2-14", V5, 0x30, publish("\x08", str("a/+")), ProtocolError},
		{"MQTT-3.3.2-14", V5, 0x30, publish("\x08", str("#")), ProtocolError},
		{"MQTT-4.7.3-1", V5, 0x30, publish("\x08", str("")), TopicNameInvalid},
		{"MQTT-4.7.3-1", V5, 0x10, connectBody(V5, 0x06, "\x00", str("c"), props("\x08", str("")), str("w"), str("")), TopicNameInvalid},
		{"3.8.2.1.2", V5, 0x30, publish("\x0b\x00"), ProtocolError},
		{"3.8.2.1.2", V5, 0x82, "\x00\x01" + props("\x0b\x00") + str("a") + "\x00", ProtocolError},
		{"1.5.5", V5, 0x30, publish("\x0b\xff\xff\xff\xff\x01"), MalformedPacket},

		{"3.1.2.11.3", V5, 0x10, connect("\x21\x00\x00"), ProtocolError},
		{"3.1.2.11.4", V5, 0x10, connect("\x27\x00\x00\x00\x00"), ProtocolError},
		{"3.1.2.11.6", V5, 0x10, connect("\x19\x02"), ProtocolError},
		{"3.1.2.11.7", V5, 0x10, connect("\x17\x02"), ProtocolError},
		{"3.1.2.11.10", V5, 0x10, connect("\x16", str("data")), ProtocolError},
		{"3.1.2.11.10", V5, 0x10, connect("\x16", str("data"), "\x15", str("SCRAM-SHA-256")), Success},

		{"3.2.2.3.3", V5, 0x20, "\x00\x00" + props("\x21\x00\x00"), ProtocolError},
		{"3.2.2.3.4", V5, 0x20, "\x00\x00" + props("\x24\x02"), ProtocolError},
		{"3.2.2.3.5", V5, 0x20, "\x00\x00" + props("\x25\x02"), ProtocolError},
		{"3.2.2.3.6", V5, 0x20, "\x00\x00" + props("\x27\x00\x00\x00\x00"), ProtocolError},
		{"3.2.2.3.11", V5, 0x20, "\x00\x00" + props("\x28\x02"), ProtocolError},
		{"3.2.2.3.12", V5, 0x20, "\x00\x00" + props("\x29\x02"), ProtocolError},
		{"3.2.2.3.13", V5, 0x20, "\x00\x00" + props("\x2a\x02"), ProtocolError},
		{"3.2.2.3.18", V5, 0x20, "\x00\x00" + props("\x16", str("data")), ProtocolError},
	} {
		tt.check(t)
	}
}

func TestConnect(t *testing.T) {
	for _, tt := range []rule{
		{"MQTT-3.1.2-1", 0, 0x10, str("HTTP") + "\x04\x02\x00\x3c" + str("c"), UnsupportedProtocolVersion},
		{"MQTT-3.1.2-2", 0, 0x10, connectBody(6, 0x02, str("c")), UnsupportedProtocolVersion},
		{"MQTT-3.1.2-2", 0, 0x10, str("MQTT") + "\x03\x02\x00\x3c" + str("c"), UnsupportedProtocolVersion},
		{"MQTT-3.1.2-2", 0, 0x10, str("MQIsdp") + "\x04\x02\x00\x3c" + str("c"), UnsupportedProtocolVersion},
		{"MQTT-3.1.2-2", 0, 0x10, connectBody(0x85, 0x02, "\x00", str("c")), UnsupportedProtocolVersion},
		{"MQTT-3.1.2-2", 0, 0x10, connectBody(V31, 0x02, str("c")), Success},
		{"MQTT-3.1.2-2", 0, 0x10, connectBody(V31|bridgeBit, 0x02, str("c")), Success},
		{"MQTT-3.1.2-2", 0, 0x10, connectBody(V311|bridgeBit, 0x02, str("c")), Success},
		{"MQTT-3.1.2-3", 0, 0x10, connectBody(V311, 0x03, str("c")), MalformedPacket},
		{"MQTT-3.1.2-3", 0, 0x10, connectBody(V5, 0x03, "\x00", str("c")), MalformedPacket},
		{"MQTT-3.1.2-11", 0, 0x10, connectBody(V311, 0x0a, str("c")), MalformedPacket},
		{"MQTT-3.1.2-11", 0, 0x10, connectBody(V5, 0x1a, "\x00", str("c")), MalformedPacket},
		{"MQTT-3.1.2-12", 0, 0x10, connectBody(V311, 0x1e, str("c"), str("w"), str("")), MalformedPacket},
		{"MQTT-3.1.2-13", 0, 0x10, connectBody(V311, 0x22, str("c")), MalformedPacket},
		{"3.1.1 MQTT-3.1.2-22", 0, 0x10, connectBody(V311, 0x42, str("c"), str("p")), MalformedPacket},
		{"3.1.2.9", 0, 0x10, connectBody(V5, 0x42, "\x00", str("c"), str("p")), Success}, // allowed since 5.0
		{"4.13.1", 0, 0x10, connectBody(V311, 0x82, str("c")), MalformedPacket},          // MQTT-3.1.2-17
		{"4.13.1", 0, 0x10, connectBody(V311, 0xc2, str("c"), str("u")), MalformedPacket},
		{"4.13.1", 0, 0x10, connectBody(V311, 0x06, str("c")), MalformedPacket},
		{"MQTT-3.1.3-6", 0, 0x10, connectBody(V5, 0x02, "\x00", str("")), Success},
		{"MQTT-3.1.3-8", 0, 0x10, connectBody(V311, 0x00, str("")), Success}, // for the broker to refuse
		{"MQTT-4.7.3-1", 0, 0x10, connectBody(V311, 0x06, str("c"), str(""), str("")), TopicNameInvalid},
		{"MQTT-3.3.2-2", 0, 0x10, connectBody(V311, 0x06, str("c"), str("a/+"), str("")), TopicNameInvalid},
		{"2.2.2.2", 0, 0x10, connectBody(V5, 0x06, "\x00", str("c"), props("\x23\x00\x01"), str("w"), str("")), MalformedPacket},
		{"4.13.1", 0, 0x10, "\x00", MalformedPacket},
		{"4.13.1", 0, 0x10, str("MQTT"), MalformedPacket},
		{"4.13.1", 0, 0x10, str("MQTT") + "\x04", MalformedPacket},
	} {
		tt.check(t)
	}
}

func TestConnectVersion(t *testing.T) {
	var d Decoder
	if _, err := d.Connect([]byte(connectBody(V5, 0x03, "\x00", str("c")))); err == nil || d.Version != V5 {
		t.Errorf("[MQTT-3.1.2-3] version = %d, %v, want 5 for the refusal", d.Version, err)
	}
	d = Decoder{}
	if _, err := d.Connect([]byte(str("GETS") + "\x04")); !errors.Is(err, ErrProtocolName) || d.Version != 0 {
		t.Errorf("[MQTT-3.1.2-1] err = %v, version %d, want ErrProtocolName", err, d.Version)
	}
	if _, err := d.Connect([]byte(connectBody(6, 0x02))); err == nil || errors.Is(err, ErrProtocolName) {
		t.Errorf("[MQTT-3.1.2-2] err = %v, want another than ErrProtocolName", err)
	}
	c, err := d.Connect([]byte(connectBody(V31|bridgeBit, 0x02, str("c"))))
	if err != nil || c.Version != V31 || !c.Bridge || d.Version != V31 {
		t.Errorf("[MQTT-3.1.2-2] %+v, %v, want a bridge that speaks 3.1", c, err)
	}
}

func TestPeek(t *testing.T) {
	for in, want := range map[string]Version{
		str("MQTT") + "\x05":         V5,
		str("MQTT") + "\x85":         0,
		str("MQTT") + "\x84\x02\x00": V311,
		str("MQIsdp") + "\x03\x02":   V31,
		str("MQIsdp"):                0,
		str("MQTT") + "\x06":         0,
		str("HTTP") + "\x05":         0,
		"\xff\xff":                   0,
		"":                           0,
	} {
		var d Decoder
		if d.Peek([]byte("\x10\xff\xff\x7f" + in)); d.Version != want {
			t.Errorf("[MQTT-3.1.2-2] %q: level %d, want %d", in, d.Version, want)
		}
		d = Decoder{}
		if d.Peek([]byte("\x30\xff\xff\x7f" + in)); d.Version != 0 {
			t.Errorf("PUBLISH %q: level %d", in, d.Version)
		}
	}
	if n := len(str("MQTT") + "\x05"); n != PeekLength {
		t.Errorf("PeekLength = %d, want %d", PeekLength, n)
	}
}

func TestConnack(t *testing.T) {
	for _, tt := range []rule{
		{"MQTT-3.2.2-1", V311, 0x20, "\x02\x00", MalformedPacket},
		{"MQTT-3.2.2-6", V311, 0x20, "\x01\x05", ProtocolError},
		{"MQTT-3.2.2-6", V5, 0x20, "\x01\x87\x00", ProtocolError},
		{"MQTT-3.2.2-8", V5, 0x20, "\x00\x04\x00", ProtocolError},
		{"3.1.1 3.2.2.3", V311, 0x20, "\x00\x06", ProtocolError},
		{"3.1.1 3.2.2.3", V311, 0x20, "\x00\x05", Success},
	} {
		tt.check(t)
	}
}

func TestPublish(t *testing.T) {
	for _, tt := range []rule{
		{"MQTT-3.3.1-2", V311, 0x38, str("a"), MalformedPacket}, // DUP, QoS 0
		{"MQTT-3.3.1-4", V311, 0x36, str("a") + "\x00\x01", MalformedPacket},
		{"MQTT-3.3.2-2", V311, 0x30, str("a/+"), TopicNameInvalid},
		{"MQTT-3.3.2-2", V5, 0x30, str("#") + "\x00", TopicNameInvalid},
		{"MQTT-4.7.3-1", V311, 0x30, str(""), TopicNameInvalid},
		{"3.3.2.3.4", V5, 0x30, str("") + "\x00", ProtocolError},
		{"3.3.2.3.4", V5, 0x30, str("") + props("\x23\x00\x07"), Success},
		{"MQTT-3.3.4-6", V5, 0x30, str("a") + props("\x0b\x07"), Success}, // for the broker to refuse
	} {
		tt.check(t)
	}
}

func TestSubscribe(t *testing.T) {
	const id = "\x00\x01"
	for _, tt := range []rule{
		{"MQTT-3.8.3-2", V311, 0x82, id, ProtocolError},
		{"MQTT-3.8.3-2", V5, 0x82, id + "\x00", ProtocolError},
		{"MQTT-3.8.3-4", V5, 0x82, id + "\x00" + str("$share/g/a") + "\x05", ProtocolError},
		{"MQTT-3.8.3-4", V5, 0x82, id + "\x00" + str("a") + "\x05", Success},
		{"MQTT-3.8.3-5", V311, 0x82, id + str("a") + "\x04", MalformedPacket},
		{"MQTT-3.8.3-5", V5, 0x82, id + "\x00" + str("a") + "\x40", MalformedPacket},
		{"3.8.3.1", V311, 0x82, id + str("a") + "\x03", ProtocolError},
		{"3.8.3.1", V5, 0x82, id + "\x00" + str("a") + "\x30", ProtocolError}, // Retain Handling 3
		{"4.13.2", V311, 0x82, id + strings.Repeat(str("a")+"\x00", MaxFilters+1), QuotaExceeded},
		{"4.13.2", V311, 0x82, id + strings.Repeat(str("a")+"\x00", MaxFilters), Success},
		{"MQTT-3.10.3-2", V311, 0xA2, id, ProtocolError},
		{"MQTT-3.10.3-2", V5, 0xA2, id + "\x00", ProtocolError},
		{"4.13.2", V311, 0xA2, id + strings.Repeat(str("a"), MaxFilters+1), QuotaExceeded},
	} {
		tt.check(t)
	}
}

func TestReasonCodes(t *testing.T) {
	const id = "\x00\x01"
	for _, tt := range []rule{
		{"MQTT-3.4.2-1", V5, 0x40, id + "\x92", ProtocolError},
		{"MQTT-3.4.2-1", V5, 0x40, id + "\x10", Success},
		{"MQTT-3.5.2-1", V5, 0x50, id + "\x01", ProtocolError},
		{"MQTT-3.5.2-1", V5, 0x50, id + "\x97", Success},
		{"MQTT-3.6.2-1", V5, 0x62, id + "\x80", ProtocolError},
		{"MQTT-3.7.2-1", V5, 0x70, id + "\x10", ProtocolError},
		{"MQTT-3.7.2-1", V5, 0x70, id + "\x92", Success},
		{"MQTT-3.9.3-2", V5, 0x90, id + "\x00\x03", ProtocolError},
		{"MQTT-3.9.3-2", V5, 0x90, id + "\x00", ProtocolError},
		{"3.1.1 MQTT-3.9.3-2", V311, 0x90, id + "\x87", ProtocolError},
		{"3.1.1 MQTT-3.9.3-2", V311, 0x90, id + "\x80", Success},
		{"4.13.2", V311, 0x90, id + strings.Repeat("\x00", MaxFilters+1), QuotaExceeded},
		{"MQTT-3.11.3-2", V5, 0xB0, id + "\x00\x01", ProtocolError},
		{"MQTT-3.11.3-2", V5, 0xB0, id + "\x00\x11", Success},
		{"MQTT-3.14.2-1", V5, 0xE0, "\x01", ProtocolError},
		{"MQTT-3.14.2-1", V5, 0xE0, "\x04", Success},
		{"MQTT-3.15.2-1", V5, 0xF0, "\x80" + props("\x15", str("m")), ProtocolError},
		{"3.15.2.2.2", V5, 0xF0, "\x18\x00", ProtocolError},
		{"3.15.2.1", V5, 0xF0, "", Success},
		{"2.1.2", V311, 0xF0, "", MalformedPacket},
	} {
		tt.check(t)
	}
}

func TestParseHeader(t *testing.T) {
	for _, tt := range []struct {
		clause string
		in     string
		want   Header
		n      int
		ok     bool
	}{
		{"2.1.1", "", Header{}, 0, true},
		{"2.1.1", "\x30", Header{}, 0, true},
		{"2.1.4", "\x30\x7f", Header{PUBLISH, 0, 127}, 2, true},
		{"2.1.4", "\x3d\x80\x01rest", Header{PUBLISH, 0x0d, 128}, 3, true},
		{"2.1.4", "\x30\xff\xff\xff", Header{}, 0, true},
		{"2.1.4", "\x30\xff\xff\xff\x7f", Header{PUBLISH, 0, MaxLength}, 5, true},
		{"1.5.5", "\x30\xff\xff\xff\xff", Header{}, 0, false},
		{"1.5.5", "\x30\x80\x80\x80\x80\x01", Header{}, 0, false},
		{"2.1.2", "\x00", Header{}, 0, false},
		{"2.1.2", "\x0f\x00", Header{}, 0, false},
		{"MQTT-2.1.3-1", "\x10", Header{}, 0, true},
		{"MQTT-2.1.3-1", "\x11", Header{}, 0, false},
		{"MQTT-3.6.1-1", "\x62\x02", Header{PUBREL, 2, 2}, 2, true},
		{"MQTT-3.6.1-1", "\x60", Header{}, 0, false},
		{"MQTT-3.8.1-1", "\x82\x05", Header{SUBSCRIBE, 2, 5}, 2, true},
		{"MQTT-3.8.1-1", "\x80", Header{}, 0, false},
		{"MQTT-3.10.1-1", "\xa2\x05", Header{UNSUBSCRIBE, 2, 5}, 2, true},
		{"MQTT-3.10.1-1", "\xa0", Header{}, 0, false},
		{"MQTT-3.14.1-1", "\xe1", Header{}, 0, false},
		{"MQTT-3.15.1-1", "\xf1", Header{}, 0, false},
		{"3.12.1", "\xc0\x00", Header{PINGREQ, 0, 0}, 2, true},
		{"3.12.1", "\xc0\x01", Header{}, 0, false},
		{"3.12.1", "\xd0\x80\x01", Header{}, 0, false},
		{"2.1.3", "GET / HTTP/1.1", Header{}, 0, false},
		{"2.1.3", "\x16\x03\x01", Header{}, 0, false}, // a TLS client
	} {
		h, n, err := ParseHeader([]byte(tt.in))
		if tt.ok != (err == nil) || h != tt.want || n != tt.n {
			t.Errorf("[%s] %q: %+v, %d, %v, want %+v, %d, ok = %t", tt.clause, tt.in, h, n, err, tt.want, tt.n, tt.ok)
		}
	}
}

// What 3.1 allows and later versions do not. Sections are those of "MQTT V3.1 Protocol
// Specification"; the clauses of refusals are those of the later rule.
func TestVersion31(t *testing.T) {
	const id = "\x00\x01"
	connect := func(flags byte, rest ...string) string {
		return connectBody(V31, flags, append([]string{str("c")}, rest...)...)
	}
	for _, tt := range []rule{
		{"3.1 3.1", 0, 0x10, connect(0x03), Success},
		{"3.1 3.1", 0, 0x10, connect(0x3a), Success}, // Will QoS 3 and Will Retain without will
		{"MQTT-3.1.2-12", 0, 0x10, connect(0x1e, str("w"), str("")), MalformedPacket},
		{"3.1 3.1", 0, 0x10, connect(0x82), Success}, // the user name is missing
		{"3.1 3.1", 0, 0x10, connect(0xc2), Success},
		{"3.1 3.1", 0, 0x10, connect(0xc2, str("u")), Success}, // the password is missing
		{"3.1 3.1", 0, 0x10, connect(0xc2, str("u"), str("p")), Success},
		{"4.13.1", 0, 0x10, connect(0x82, "\x00"), MalformedPacket},
		{"4.13.1", 0, 0x10, connect(0x02, str("u")), MalformedPacket},
		{"4.13.1", 0, 0x10, connect(0x06), MalformedPacket}, // the will is not
		{"3.1.1 MQTT-3.1.2-22", 0, 0x10, connect(0x42, str("p")), MalformedPacket},
		{"3.1 2.1", V31, 0x38, str("a"), Success}, // DUP at QoS 0
		{"MQTT-3.3.1-4", V31, 0x36, str("a") + id, MalformedPacket},
		{"3.1 3.8", V31, 0x82, id + str("a") + "\xfe", Success},
		{"3.8.3.1", V31, 0x82, id + str("a") + "\xff", ProtocolError},
		{"2.1.2", V31, 0xF0, "", MalformedPacket},
	} {
		tt.check(t)
	}
	for _, tt := range []struct {
		in string
		ok bool
	}{
		{"\x8a\x02", true}, {"\x83\x02", true}, {"\xaa\x02", true}, {"\x6a\x02", true}, // again, or RETAIN
		{"\x80\x02", false}, {"\x86\x02", false}, {"\xa4\x02", false}, {"\x60\x02", false}, // not QoS 1
		{"\x4f\x02", true}, {"\x5f\x02", true}, {"\x7f\x02", true}, {"\xcf\x00", true}, {"\xef\x00", true},
		{"\xcf\x01", false}, {"\x0f\x00", false},
	} {
		d := Decoder{Version: V31}
		if _, n, err := d.Header([]byte(tt.in)); tt.ok != (err == nil) || tt.ok != (n == 2) {
			t.Errorf("[3.1 2.1] %q: %d, %v, want ok = %t", tt.in, n, err, tt.ok)
		}
		if d.Version = V311; tt.in[0]&0x0f != 2 {
			if _, _, err := d.Header([]byte(tt.in)); err == nil {
				t.Errorf("[MQTT-2.1.3-1] %q is taken in 3.1.1", tt.in)
			}
		}
	}
	s := Suback{Type: SUBACK, ID: 1, Reasons: []ReasonCode{NotAuthorized, TopicFilterInvalid, GrantedQoS2}}
	if got, want := string(s.Append(nil, V31)), "\x90\x05\x00\x01\x00\x80\x02"; got != want {
		t.Errorf("[3.1 3.8] SUBACK %q, want %q", got, want)
	}
	var d Decoder
	c, err := d.Connect([]byte(connect(0xc2, str("u"))))
	if err != nil || !c.HasUsername || c.Username != "u" || c.HasPassword {
		t.Errorf("[3.1 3.1] %+v, %v, want a user without password", c, err)
	}
}

// What a version says about the fixed header, when it is known.
func TestHeader(t *testing.T) {
	for _, tt := range []struct {
		clause string
		v      Version
		in     string
		n      int
		ok     bool
	}{
		{"MQTT-1.5.5-1", V5, "\xc0\x80", 0, true},
		{"MQTT-1.5.5-1", V5, "\xc0\x80\x00", 0, false},
		{"MQTT-1.5.5-1", V5, "\x30\xff\x00", 0, false},
		{"MQTT-1.5.5-1", V5, "\x30\x80\x80\x80\x00", 0, false},
		{"MQTT-1.5.5-1", V5, "\x30\x80\x01", 3, true},
		{"MQTT-1.5.5-1", V5, "\x30\x80\x80\x01", 4, true},
		{"3.1.1 2.2.3", V311, "\xc0\x80\x00", 3, true},
		{"3.1 2.1", V31, "\x30\x82\x80\x00", 4, true},
		{"MQTT-1.5.5-1", 0, "\x10\x82\x00", 3, true}, // for Connect to refuse
		{"MQTT-2.1.3-1", V5, "\xc1", 0, false},
	} {
		d := Decoder{Version: tt.v}
		if _, n, err := d.Header([]byte(tt.in)); n != tt.n || tt.ok != (err == nil) {
			t.Errorf("[%s] %q at level %d: %d, %v, want %d, ok = %t", tt.clause, tt.in, tt.v, n, err, tt.n, tt.ok)
		}
	}
	for v, ok := range map[Version]bool{V31: true, V311: true, V5: false} {
		var d Decoder
		body := connectBody(v, 0x02, str(""))
		if v == V5 {
			body = connectBody(v, 0x02, "\x00", str(""))
		}
		_, n, err := d.Header([]byte{0x10, byte(len(body)) | 0x80, 0})
		if n != 3 || err != nil {
			t.Fatal(n, err)
		}
		if _, err := d.Connect([]byte(body)); ok != (err == nil) || d.Version != v {
			t.Errorf("[MQTT-1.5.5-1] CONNECT at level %d with a padded length: %v", v, err)
		}
	}
}

func TestNames(t *testing.T) {
	for code := range 256 {
		r := ReasonCode(code)
		known := false
		for typ := CONNECT; typ <= AUTH; typ++ {
			known = known || r.of(typ)
		}
		if unnamed := strings.HasPrefix(r.String(), "reason code 0x"); known == unnamed {
			t.Errorf("[2.4] %#x: carried by a packet: %t, name %q", code, known, r)
		}
	}
	for typ, want := range map[Type]string{0: "reserved packet type", CONNECT: "CONNECT", AUTH: "AUTH", 16: "reserved packet type"} {
		if typ.String() != want {
			t.Errorf("[2.1.2] type %d is named %q, want %q", byte(typ), typ, want)
		}
	}
	err := &Error{Clause: "MQTT-3.3.1-4", Reason: MalformedPacket, Text: "QoS is 3"}
	if want := "Malformed Packet: QoS is 3 [MQTT-3.3.1-4]"; err.Error() != want {
		t.Errorf("error reads %q, want %q", err, want)
	}
}
