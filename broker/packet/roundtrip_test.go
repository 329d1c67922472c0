package packet

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

var (
	someRune = rapid.Rune().Filter(func(r rune) bool { return r != 0 && (r < 0xD800 || r > 0xDFFF) })
	// Long texts push every length beyond one byte.
	someText   = rapid.OneOf(rapid.StringOfN(someRune, 0, 8, -1), rapid.StringOfN(someRune, 120, 150, -1))
	someTopic  = rapid.StringOfN(someRune.Filter(func(r rune) bool { return r != '+' && r != '#' }), 1, 20, -1)
	someFilter = someText.Filter(func(s string) bool { return s != "" })
	someBytes  = rapid.SliceOfN(rapid.Byte(), 0, 40)
	someNumber = rapid.Uint32()
	someID     = rapid.Uint16Min(1)
	someQoS    = rapid.Map(rapid.ByteMax(2), func(b byte) QoS { return QoS(b) })
	someUser   = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) UserProperty {
		return UserProperty{someText.Draw(t, "name"), someText.Draw(t, "value")}
	}), 0, 3)
)

func reasonFor(typ Type) *rapid.Generator[ReasonCode] {
	var codes []ReasonCode
	for code := range 256 {
		if r := ReasonCode(code); r.of(typ) {
			codes = append(codes, r)
		}
	}
	return rapid.SampledFrom(codes)
}

// draw fills a field, or leaves it absent.
func draw[T any](t *rapid.T, field *T, g *rapid.Generator[T]) bool {
	if !rapid.Bool().Draw(t, "present") {
		return false
	}
	*field = g.Draw(t, "field")
	return true
}

func drawUser(t *rapid.T) []UserProperty {
	if u := someUser.Draw(t, "user"); len(u) > 0 {
		return u
	}
	return nil
}

func drawMessageProperties(t *rapid.T, p *PublishProperties) *PublishProperties {
	p.PayloadFormat = rapid.ByteMax(1).Draw(t, "format")
	p.HasMessageExpiry = draw(t, &p.MessageExpiry, someNumber)
	draw(t, &p.ResponseTopic, someTopic)
	draw(t, &p.CorrelationData, someBytes)
	draw(t, &p.ContentType, someText)
	p.User = drawUser(t)
	if reflect.DeepEqual(p, &PublishProperties{}) {
		return nil
	}
	return p
}

func drawConnect(t *rapid.T, v Version) appender {
	c := Connect{Version: v, CleanStart: rapid.Bool().Draw(t, "clean"), KeepAlive: rapid.Uint16().Draw(t, "keep alive")}
	c.Bridge = v < V5 && rapid.Bool().Draw(t, "bridge")
	c.ClientID = someText.Draw(t, "client")
	c.HasUsername = draw(t, &c.Username, someText)
	if c.HasUsername || v >= V5 {
		c.HasPassword = draw(t, &c.Password, someBytes)
	}
	if rapid.Bool().Draw(t, "will") {
		c.Will = &Will{Topic: someTopic.Draw(t, "topic"), Payload: someBytes.Draw(t, "payload"),
			QoS: someQoS.Draw(t, "QoS"), Retain: rapid.Bool().Draw(t, "retain")}
		if v >= V5 {
			draw(t, &c.Will.Delay, someNumber)
			c.Will.Properties = drawMessageProperties(t, &PublishProperties{})
		}
	}
	if v < V5 {
		return &c
	}
	p := &c.Properties
	p.HasSessionExpiry = draw(t, &p.SessionExpiry, someNumber)
	draw(t, &p.ReceiveMaximum, someID)
	draw(t, &p.MaximumPacketSize, someNumber)
	draw(t, &p.TopicAliasMaximum, someID)
	draw(t, &p.RequestResponse, rapid.Bool())
	draw(t, &p.NoProblemInfo, rapid.Bool())
	if p.HasAuthMethod = draw(t, &p.AuthMethod, someText); p.HasAuthMethod {
		draw(t, &p.AuthData, someBytes)
	}
	p.User = drawUser(t)
	return &c
}

func drawConnack(t *rapid.T, v Version) appender {
	if v < V5 {
		c := Connack{Reason: rapid.SampledFrom(returnCodes[:]).Draw(t, "reason")}
		c.SessionPresent = v == V311 && c.Reason == Success && rapid.Bool().Draw(t, "session")
		return &c
	}
	c := Connack{Reason: reasonFor(CONNACK).Draw(t, "reason")}
	c.SessionPresent = c.Reason == Success && rapid.Bool().Draw(t, "session")
	p := &ConnackProperties{}
	p.HasSessionExpiry = draw(t, &p.SessionExpiry, someNumber)
	draw(t, &p.ReceiveMaximum, someID)
	p.HasMaximumQoS = draw(t, &p.MaximumQoS, rapid.Just(QoS(1)))
	draw(t, &p.NoRetain, rapid.Bool())
	draw(t, &p.MaximumPacketSize, someNumber)
	draw(t, &p.AssignedClientID, someText)
	draw(t, &p.TopicAliasMaximum, someID)
	draw(t, &p.ReasonString, someText)
	draw(t, &p.NoWildcard, rapid.Bool())
	draw(t, &p.NoSubscriptionID, rapid.Bool())
	draw(t, &p.NoShared, rapid.Bool())
	p.HasServerKeepAlive = draw(t, &p.ServerKeepAlive, rapid.Uint16())
	draw(t, &p.ResponseInformation, someText)
	draw(t, &p.ServerReference, someText)
	if p.HasAuthMethod = draw(t, &p.AuthMethod, someText); p.HasAuthMethod {
		draw(t, &p.AuthData, someBytes)
	}
	p.User = drawUser(t)
	if !reflect.DeepEqual(p, &ConnackProperties{}) {
		c.Properties = p
	}
	return &c
}

func drawPublish(t *rapid.T, v Version) appender {
	p := Publish{QoS: someQoS.Draw(t, "QoS"), Retain: rapid.Bool().Draw(t, "retain"),
		Topic: someTopic.Draw(t, "topic"), Payload: someBytes.Draw(t, "payload")}
	if p.QoS > 0 {
		p.ID, p.Dup = someID.Draw(t, "id"), rapid.Bool().Draw(t, "dup")
	}
	if v < V5 {
		return &p
	}
	pp := &PublishProperties{}
	if draw(t, &pp.TopicAlias, someID) && rapid.Bool().Draw(t, "alias only") {
		p.Topic = ""
	}
	for range rapid.IntRange(0, 3).Draw(t, "subscription ids") {
		pp.SubscriptionIDs = append(pp.SubscriptionIDs, rapid.Uint32Range(1, MaxLength).Draw(t, "subscription id"))
	}
	p.Properties = drawMessageProperties(t, pp)
	return &p
}

func drawAck(t *rapid.T, v Version) appender {
	a := Ack{Type: rapid.SampledFrom([]Type{PUBACK, PUBREC, PUBREL, PUBCOMP}).Draw(t, "type"), ID: someID.Draw(t, "id")}
	if v >= V5 {
		a.Reason = reasonFor(a.Type).Draw(t, "reason")
		draw(t, &a.ReasonString, someText)
		a.User = drawUser(t)
	}
	return &a
}

func drawSubscribe(t *rapid.T, v Version) appender {
	s := Subscribe{ID: someID.Draw(t, "id")}
	if v >= V5 {
		draw(t, &s.SubscriptionID, rapid.Uint32Range(1, MaxLength))
		s.User = drawUser(t)
	}
	for range rapid.IntRange(1, 4).Draw(t, "filters") {
		f := Subscription{Filter: someFilter.Draw(t, "filter"), QoS: someQoS.Draw(t, "QoS")}
		if v >= V5 {
			f.NoLocal = rapid.Bool().Draw(t, "no local")
			f.RetainAsPublished = rapid.Bool().Draw(t, "as published")
			f.RetainHandling = rapid.ByteMax(2).Draw(t, "retain handling")
		}
		s.Filters = append(s.Filters, f)
	}
	return &s
}

func drawSuback(t *rapid.T, v Version) appender {
	s := Suback{Type: rapid.SampledFrom([]Type{SUBACK, UNSUBACK}).Draw(t, "type"), ID: someID.Draw(t, "id")}
	codes := reasonFor(s.Type)
	if v >= V5 {
		draw(t, &s.ReasonString, someText)
		s.User = drawUser(t)
	} else {
		codes = rapid.SampledFrom([]ReasonCode{Success, GrantedQoS1, GrantedQoS2, UnspecifiedError})
	}
	if v >= V5 || s.Type == SUBACK {
		s.Reasons = rapid.SliceOfN(codes, 1, 5).Draw(t, "reasons")
	}
	return &s
}

func drawUnsubscribe(t *rapid.T, v Version) appender {
	u := Unsubscribe{ID: someID.Draw(t, "id"), Filters: rapid.SliceOfN(someFilter, 1, 4).Draw(t, "filters")}
	if v >= V5 {
		u.User = drawUser(t)
	}
	return &u
}

func drawDisconnect(t *rapid.T, v Version) appender {
	var x Disconnect
	if v >= V5 {
		x.Reason = reasonFor(DISCONNECT).Draw(t, "reason")
		x.HasSessionExpiry = draw(t, &x.SessionExpiry, someNumber)
		draw(t, &x.ReasonString, someText)
		draw(t, &x.ServerReference, someText)
		x.User = drawUser(t)
	}
	return &x
}

func drawAuth(t *rapid.T, _ Version) appender {
	a := Auth{Reason: reasonFor(AUTH).Draw(t, "reason"), Method: someText.Draw(t, "method")}
	draw(t, &a.Data, someBytes)
	draw(t, &a.ReasonString, someText)
	a.User = drawUser(t)
	return &a
}

func drawPing(t *rapid.T, _ Version) appender {
	return &Ping{rapid.SampledFrom([]Type{PINGREQ, PINGRESP}).Draw(t, "type")}
}

var generators = map[string]func(*rapid.T, Version) appender{
	"CONNECT": drawConnect, "CONNACK": drawConnack, "PUBLISH": drawPublish, "acks": drawAck,
	"SUBSCRIBE": drawSubscribe, "SUBACK": drawSuback, "UNSUBSCRIBE": drawUnsubscribe,
	"DISCONNECT": drawDisconnect, "AUTH": drawAuth, "pings": drawPing,
}

// What Append writes, the decoder reads back as it was, from a packet of exactly its length. Of a
// packet that is cut short, it never reads more than is there.
func TestRoundTrip(t *testing.T) {
	for name, gen := range generators {
		for _, v := range []Version{V31, V311, V5} {
			if name == "AUTH" && v < V5 {
				continue
			}
			t.Run(name+" "+versionName(v), func(t *testing.T) {
				rapid.Check(t, func(t *rapid.T) { roundTrip(t, gen(t, v), v) })
			})
		}
	}
}

func roundTrip(t *rapid.T, p appender, v Version) {
	b := p.Append(nil, v)
	h, n, err := ParseHeader(b)
	if err != nil || n+h.Length != len(b) {
		t.Fatalf("header %+v of %d bytes, %v, for a packet of %d", h, n, err, len(b))
	}
	got, err := decode(&Decoder{Version: v}, h, b[n:])
	if err != nil {
		t.Fatalf("%+v refused: %v", p, err)
	}
	if !reflect.DeepEqual(got, p) {
		t.Fatalf("got  %#v\nwant %#v", got, p)
	}
	if pub, ok := p.(*Publish); ok && pub.Size(v) != len(b) {
		t.Fatalf("[MQTT-3.1.2-24] size = %d, want %d", pub.Size(v), len(b))
	}
	if h.Type == PINGREQ || h.Type == PINGRESP {
		return
	}
	cut := rapid.IntRange(n, len(b)).Draw(t, "cut")
	if again, err := decode(&Decoder{Version: v}, h, b[n:cut]); err == nil && len(again.Append(nil, v)) > cut {
		t.Fatalf("%d of %d bytes read as %+v", cut, len(b), again)
	}
}

// A decoder that lends properties begins each list anew; one that does not gives them away.
func TestLends(t *testing.T) {
	first := Publish{Topic: "a", Properties: &PublishProperties{ContentType: "x", User: []UserProperty{{"a", "1"}}}}
	second := Publish{Topic: "a", Properties: &PublishProperties{HasMessageExpiry: true, MessageExpiry: 7}}
	for _, lends := range []bool{false, true} {
		d := Decoder{Version: V5, Lends: lends}
		var got []Publish
		for _, p := range []*Publish{&first, &second} {
			b := p.Append(nil, V5)
			q, err := d.Publish(0, b[2:])
			if err != nil || !reflect.DeepEqual(q.Properties, p.Properties) {
				t.Fatalf("lends = %t: %+v, %v, want %+v", lends, q.Properties, err, p.Properties)
			}
			got = append(got, q)
		}
		if same := got[0].Properties == got[1].Properties; same != lends {
			t.Errorf("lends = %t: the same list = %t", lends, same)
		}
	}
}
