package packet

import (
	"bytes"
	"testing"
)

// samples has at least one packet of each type, with all its fields.
func samples() []appender {
	user := []UserProperty{{"site", "north"}, {"site", "south"}}
	message := &PublishProperties{PayloadFormat: 1, MessageExpiry: 60, HasMessageExpiry: true, ResponseTopic: "answers",
		CorrelationData: []byte{1, 2}, ContentType: "application/json", User: user}
	publish := *message
	publish.TopicAlias, publish.SubscriptionIDs = 3, []uint32{1, 200, 20_000}
	present := &PublishProperties{PayloadUnspecified: true, EmptyContentType: true, CorrelationData: []byte{}}
	return []appender{
		&Connect{CleanStart: true, KeepAlive: 60, ClientID: "c"},
		&Connect{ClientID: "c", Will: &Will{Topic: "t", Properties: present}},
		&Publish{Topic: "a/b", Properties: present},
		&Connect{Bridge: true, ClientID: "c", HasUsername: true, Username: "u", HasPassword: true, Password: []byte("p"),
			Will: &Will{Topic: "t", Payload: []byte("gone"), QoS: 1, Retain: true, Delay: 5, Properties: message},
			Properties: ConnectProperties{SessionExpiry: 1, HasSessionExpiry: true, ReceiveMaximum: 10, MaximumPacketSize: 1000,
				TopicAliasMaximum: 4, RequestResponse: true, NoProblemInfo: true, AuthMethod: "m", HasAuthMethod: true,
				AuthData: []byte{1}, User: user}},
		&Connack{SessionPresent: true},
		&Connack{Reason: NotAuthorized, Properties: &ConnackProperties{SessionExpiry: 1, HasSessionExpiry: true, ReceiveMaximum: 2,
			MaximumQoS: 1, HasMaximumQoS: true, NoRetain: true, MaximumPacketSize: 9, AssignedClientID: "c", TopicAliasMaximum: 1,
			ReasonString: "no", User: user, NoWildcard: true, NoSubscriptionID: true, NoShared: true, ServerKeepAlive: 3,
			HasServerKeepAlive: true, ResponseInformation: "r", ServerReference: "s", AuthMethod: "m", HasAuthMethod: true, AuthData: []byte{1}}},
		&Publish{Topic: "a/b", Payload: []byte("21.5")},
		&Publish{Topic: "a/b", Payload: []byte("21.5"), QoS: 2, Dup: true, Retain: true, ID: 7, Properties: &publish},
		&Ack{Type: PUBACK, ID: 1},
		&Ack{Type: PUBREC, ID: 1, Reason: QuotaExceeded},
		&Ack{Type: PUBREL, ID: 65_535, Reason: PacketIDNotFound, ReasonString: "why", User: user},
		&Ack{Type: PUBCOMP, ID: 1},
		&Subscribe{ID: 1, Filters: []Subscription{{Filter: "a/+", QoS: 1}, {Filter: "#", QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}},
			SubscriptionID: 300, User: user},
		&Suback{Type: SUBACK, ID: 1, Reasons: []ReasonCode{Success, GrantedQoS2, NotAuthorized}, ReasonString: "why", User: user},
		&Unsubscribe{ID: 1, Filters: []string{"a/+", "#"}, User: user},
		&Suback{Type: UNSUBACK, ID: 1, Reasons: []ReasonCode{Success, NoSubscriptionExisted}, ReasonString: "why", User: user},
		&Ping{PINGREQ},
		&Ping{PINGRESP},
		&Disconnect{},
		&Disconnect{Reason: DisconnectWithWill, SessionExpiry: 1, HasSessionExpiry: true, ReasonString: "why", ServerReference: "s", User: user},
		&Auth{Reason: ContinueAuthentication, Method: "m", Data: []byte{1}, ReasonString: "why", User: user},
	}
}

// fuzz feeds a decoder with bodies: whatever it accepts, it reads again as the same from what
// Append makes of it.
func fuzz(f *testing.F, types ...Type) {
	for _, p := range samples() {
		for _, v := range []Version{V31, V311, V5} {
			b := p.Append(nil, v)
			h, n, err := ParseHeader(b)
			if err != nil {
				f.Fatal(err)
			}
			for _, typ := range types {
				if h.Type == typ {
					f.Add(byte(v), b[0], b[n:])
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, version, first byte, body []byte) {
		v := V31 + Version(version%3)
		typ := types[int(first>>4)%len(types)]
		for _, other := range types {
			if first>>4 == byte(other) {
				typ = other
			}
		}
		p, err := decode(&Decoder{Version: v}, Header{Type: typ, Flags: first & 0x0F, Length: len(body)}, body)
		if err != nil {
			return
		}
		if c, ok := p.(*Connect); ok {
			v = c.Version
		}
		b := p.Append(nil, v)
		h, n, err := ParseHeader(b)
		if err != nil || n+h.Length != len(b) {
			t.Fatalf("%+v is written with the header %+v, %v", p, h, err)
		}
		again, err := decode(&Decoder{Version: v}, h, b[n:])
		if err != nil {
			t.Fatalf("%+v is not read back: %v", p, err)
		}
		if !bytes.Equal(again.Append(nil, v), b) {
			t.Fatalf("%+v is read back as %+v", p, again)
		}
		if pub, ok := p.(*Publish); ok && pub.Size(v) != len(b) {
			t.Fatalf("[MQTT-3.1.2-24] size = %d, want %d", pub.Size(v), len(b))
		}
	})
}

func FuzzConnect(f *testing.F)     { fuzz(f, CONNECT) }
func FuzzConnack(f *testing.F)     { fuzz(f, CONNACK) }
func FuzzPublish(f *testing.F)     { fuzz(f, PUBLISH) }
func FuzzAck(f *testing.F)         { fuzz(f, PUBACK, PUBREC, PUBREL, PUBCOMP) }
func FuzzSubscribe(f *testing.F)   { fuzz(f, SUBSCRIBE) }
func FuzzSuback(f *testing.F)      { fuzz(f, SUBACK, UNSUBACK) }
func FuzzUnsubscribe(f *testing.F) { fuzz(f, UNSUBSCRIBE) }
func FuzzDisconnect(f *testing.F)  { fuzz(f, DISCONNECT) }
func FuzzAuth(f *testing.F)        { fuzz(f, AUTH) }

func FuzzParseHeader(f *testing.F) {
	for _, b := range []string{"", "\x30", "\x30\x7f", "\x82\xff\xff\xff\x7f", "\x30\xff\xff\xff\xff", "\xc0\x00", "\xc0\x80\x00", "\x00"} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := ParseHeader(b)
		if n < 0 || n > len(b) || n > 5 || h.Length < 0 || h.Length > MaxLength || err != nil && n != 0 {
			t.Fatalf("%x: %+v, %d, %v", b, h, n, err)
		}
		for i := range n { // an incomplete header is never taken for a whole one, nor refused
			if _, early, err := ParseHeader(b[:i]); early != 0 || err != nil {
				t.Fatalf("%x of %x: %d, %v", b[:i], b[:n], early, err)
			}
		}
		d := Decoder{Version: V5}
		if h5, n5, err := d.Header(b); err == nil && (h5 != h || n5 != n || n > 0 && n != 1+varintSize(h.Length)) {
			t.Fatalf("[MQTT-1.5.5-1] %x: %+v, %d", b, h5, n5)
		}
	})
}
