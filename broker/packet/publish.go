package packet

import (
	"bytes"
	"strings"
)

// A Publish is a PUBLISH packet (clause 3.3).
type Publish struct {
	Dup    bool
	QoS    QoS
	Retain bool
	Topic  string // may be empty in 5.0 when Properties carries a topic alias
	ID     uint16 // packet identifier; 0 at QoS 0
	// Payload aliases the decoder's input: whoever keeps it copies it.
	Payload    []byte
	Properties *PublishProperties // nil when there are none; always nil before 5.0
	// From is the client identifier of the publisher, on a message that the broker hands to a client
	// within the process; empty if it is not known any more. It is in no packet.
	From string
}

// PublishProperties are the properties of a PUBLISH (5.0, 3.3.2.3). Zero values are absent,
// except where another field tells: what a publisher sends is passed on unaltered [MQTT-3.3.2-4],
// [MQTT-3.3.2-20].
type PublishProperties struct {
	PayloadFormat      byte // 1: the payload is UTF-8
	PayloadUnspecified bool // Payload Format Indicator is present and 0
	EmptyContentType   bool // Content Type is present and empty
	HasMessageExpiry   bool
	MessageExpiry      uint32 // seconds
	TopicAlias         uint16 // 0: none
	ResponseTopic      string
	CorrelationData    []byte   // nil: none
	SubscriptionIDs    []uint32 // server to client only
	ContentType        string
	User               []UserProperty
}

var publishAllowed = setOf(payloadFormat, messageExpiry, topicAlias, responseTopic,
	correlationData, userProperty, subscriptionID, contentType)

// Publish reads the body of a PUBLISH; flags are those of its fixed header. The payload aliases
// body. A repeated topic without properties, or with an alias, costs no memory if the decoder lends
// properties.
//
// Whether the payload is of the format that it says, whether a topic alias is known, and who
// may send a Subscription Identifier, are matters of the caller.
func (d *Decoder) Publish(flags byte, body []byte) (Publish, error) {
	p := Publish{Dup: flags&0b1000 != 0, QoS: QoS(flags >> 1 & 3), Retain: flags&1 != 0}
	if p.QoS == 3 {
		return Publish{}, malformed("MQTT-3.3.1-4", "QoS is 3")
	}
	if p.QoS == 0 && p.Dup {
		if d.Version == V31 {
			p.Dup = false // it says nothing there (3.1, 2.1)
		} else {
			return Publish{}, malformed("MQTT-3.3.1-2", "DUP is set at QoS 0")
		}
	}
	r := reader{b: body}
	p.Topic = d.topicName(&r)
	if p.QoS > 0 {
		p.ID = r.id()
	}
	if d.v5() {
		for ps := r.properties(publishAllowed); ps.next(); {
			if p.Properties == nil {
				p.Properties = d.properties()
			}
			p.Properties.read(&ps)
		}
	}
	if r.err == nil && p.Topic == "" {
		if !d.v5() {
			r.fail(&Error{Clause: "MQTT-4.7.3-1", Reason: TopicNameInvalid, Text: "topic name is empty"})
		} else if p.Properties == nil || p.Properties.TopicAlias == 0 {
			r.fail(protocolError("3.3.2.3.4", "topic name is empty and there is no Topic Alias"))
		}
	}
	if r.err != nil {
		return Publish{}, r.err
	}
	p.Payload = r.b
	return p, nil
}

// properties returns the properties for a PUBLISH, which are empty.
func (d *Decoder) properties() *PublishProperties {
	if !d.Lends || d.lent == nil {
		d.lent = new(PublishProperties)
	}
	*d.lent = PublishProperties{}
	return d.lent
}

// topicName reads a topic name, from the cache if it is there.
func (d *Decoder) topicName(r *reader) string {
	b := r.raw("topic name")
	name, slot, ok := d.topics.find(b)
	if ok {
		return name
	}
	if err := topicError(b, "topic name"); err != nil {
		r.fail(err)
	}
	if r.err != nil {
		return ""
	}
	if d.topics == nil {
		d.topics = new(topicCache)
		_, slot, _ = d.topics.find(b)
	}
	name = string(b)
	d.topics.add(name, slot)
	return name
}

// topicError tells why b cannot be a topic name, nil if it can. The empty one is for others to
// refuse.
func topicError(b []byte, what string) *Error {
	if bytes.IndexByte(b, '+') >= 0 || bytes.IndexByte(b, '#') >= 0 {
		return &Error{Clause: "MQTT-3.3.2-2", Reason: TopicNameInvalid, Text: what + " contains a wildcard"}
	}
	return textError(b, what)
}

// read reads the property that p is at, of a PUBLISH or a will.
func (pp *PublishProperties) read(p *properties) {
	switch p.id {
	case payloadFormat:
		pp.PayloadFormat = p.bit("3.3.2.3.2")
		pp.PayloadUnspecified = pp.PayloadFormat == 0
	case messageExpiry:
		pp.MessageExpiry, pp.HasMessageExpiry = p.uint32(), true
	case topicAlias:
		pp.TopicAlias = p.positive16("MQTT-3.3.2-8", TopicAliasInvalid)
	case responseTopic:
		pp.ResponseTopic = p.text()
		switch {
		case strings.ContainsAny(pp.ResponseTopic, "+#"):
			p.r.fail(protocolError("MQTT-3.3.2-14", "Response Topic contains a wildcard"))
		case pp.ResponseTopic == "":
			p.r.fail(&Error{Clause: "MQTT-4.7.3-1", Reason: TopicNameInvalid, Text: "Response Topic is empty"})
		}
	case correlationData:
		pp.CorrelationData = p.binary()
	case subscriptionID:
		pp.SubscriptionIDs = append(pp.SubscriptionIDs, p.subscriptionID())
	case contentType:
		pp.ContentType = p.text()
		pp.EmptyContentType = pp.ContentType == ""
	case userProperty:
		pp.User = append(pp.User, p.user())
	}
}

// Append appends the packet to dst. The caller keeps the packet below MaxLength, see Size.
func (p *Publish) Append(dst []byte, v Version) []byte {
	first := byte(PUBLISH)<<4 | byte(p.QoS)<<1
	if p.Dup {
		first |= 0b1000
	}
	if p.Retain {
		first |= 1
	}
	n, properties := p.sizes(v)
	dst = appendVarint(append(dst, first), uint32(n))
	dst = appendText(dst, p.Topic)
	if p.QoS > 0 {
		dst = appendUint16(dst, p.ID)
	}
	if v >= V5 {
		dst = appendVarint(dst, uint32(properties))
		if p.Properties != nil {
			dst = p.Properties.append(dst)
		}
	}
	return append(dst, p.Payload...)
}

// Size returns the number of bytes that Append appends, which a Maximum Packet Size limits
// [MQTT-3.1.2-24].
func (p *Publish) Size(v Version) int {
	n, _ := p.sizes(v)
	return 1 + varintSize(n) + n
}

// sizes returns the Remaining Length and, from 5.0 on, the Property Length.
func (p *Publish) sizes(v Version) (n, properties int) {
	n = 2 + len(fit(p.Topic)) + len(p.Payload)
	if p.QoS > 0 {
		n += 2
	}
	if v >= V5 {
		if p.Properties != nil {
			properties = p.Properties.size()
		}
		n += varintSize(properties) + properties
	}
	return n, properties
}

// append and size are to be kept alike.
func (pp *PublishProperties) append(dst []byte) []byte {
	dst = appendFlag(dst, payloadFormat, pp.PayloadFormat, pp.PayloadFormat != 0 || pp.PayloadUnspecified)
	dst = append32(dst, messageExpiry, pp.MessageExpiry, pp.HasMessageExpiry)
	dst = append16(dst, topicAlias, pp.TopicAlias)
	dst = appendTextProperty(dst, responseTopic, pp.ResponseTopic)
	dst = appendBinaryProperty(dst, correlationData, pp.CorrelationData)
	for _, id := range pp.SubscriptionIDs {
		dst = appendVarint(append(dst, byte(subscriptionID)), id)
	}
	if pp.ContentType != "" || pp.EmptyContentType {
		dst = appendText(append(dst, byte(contentType)), pp.ContentType)
	}
	return appendUser(dst, pp.User)
}

func (pp *PublishProperties) size() (n int) {
	if pp.PayloadFormat != 0 || pp.PayloadUnspecified {
		n += 2
	}
	if pp.HasMessageExpiry {
		n += 5
	}
	if pp.TopicAlias != 0 {
		n += 3
	}
	if pp.ResponseTopic != "" {
		n += 3 + len(fit(pp.ResponseTopic))
	}
	if pp.CorrelationData != nil {
		n += 3 + min(len(pp.CorrelationData), maxString)
	}
	for _, id := range pp.SubscriptionIDs {
		n += 1 + varintSize(int(id))
	}
	if pp.ContentType != "" || pp.EmptyContentType {
		n += 3 + len(fit(pp.ContentType))
	}
	for i := range pp.User {
		n += 5 + len(fit(pp.User[i].Name)) + len(fit(pp.User[i].Value))
	}
	return n
}
