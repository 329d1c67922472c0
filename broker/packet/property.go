package packet

// MaxProperties is the largest number of properties, User Properties and Subscription
// Identifiers included, that a decoder accepts in one packet, and in its will. What is beyond
// is refused with QuotaExceeded, before it takes memory.
const MaxProperties = 256

// A property is a property identifier (5.0, 2.2.2.2).
type property byte

const (
	payloadFormat         property = 0x01
	messageExpiry         property = 0x02
	contentType           property = 0x03
	responseTopic         property = 0x08
	correlationData       property = 0x09
	subscriptionID        property = 0x0B
	sessionExpiry         property = 0x11
	assignedClientID      property = 0x12
	serverKeepAlive       property = 0x13
	authMethod            property = 0x15
	authData              property = 0x16
	requestProblemInfo    property = 0x17
	willDelay             property = 0x18
	requestResponseInfo   property = 0x19
	responseInformation   property = 0x1A
	serverReference       property = 0x1C
	reasonString          property = 0x1F
	receiveMaximum        property = 0x21
	topicAliasMaximum     property = 0x22
	topicAlias            property = 0x23
	maximumQoS            property = 0x24
	retainAvailable       property = 0x25
	userProperty          property = 0x26
	maximumPacketSize     property = 0x27
	wildcardAvailable     property = 0x28
	subscriptionAvailable property = 0x29
	sharedAvailable       property = 0x2A
)

var propertyNames = [...]string{
	payloadFormat:         "Payload Format Indicator",
	messageExpiry:         "Message Expiry Interval",
	contentType:           "Content Type",
	responseTopic:         "Response Topic",
	correlationData:       "Correlation Data",
	subscriptionID:        "Subscription Identifier",
	sessionExpiry:         "Session Expiry Interval",
	assignedClientID:      "Assigned Client Identifier",
	serverKeepAlive:       "Server Keep Alive",
	authMethod:            "Authentication Method",
	authData:              "Authentication Data",
	requestProblemInfo:    "Request Problem Information",
	willDelay:             "Will Delay Interval",
	requestResponseInfo:   "Request Response Information",
	responseInformation:   "Response Information",
	serverReference:       "Server Reference",
	reasonString:          "Reason String",
	receiveMaximum:        "Receive Maximum",
	topicAliasMaximum:     "Topic Alias Maximum",
	topicAlias:            "Topic Alias",
	maximumQoS:            "Maximum QoS",
	retainAvailable:       "Retain Available",
	userProperty:          "User Property",
	maximumPacketSize:     "Maximum Packet Size",
	wildcardAvailable:     "Wildcard Subscription Available",
	subscriptionAvailable: "Subscription Identifier Available",
	sharedAvailable:       "Shared Subscription Available",
}

// A propertySet is a set of properties; bit n stands for the identifier n.
type propertySet uint64

func setOf(ids ...property) (s propertySet) {
	for _, id := range ids {
		s |= 1 << id
	}
	return s
}

// properties walks the properties at the front of a reader:
//
//	for p := r.properties(allowed); p.next(); {
//		switch p.id {
//		case sessionExpiry:
//			expiry = p.uint32()
//
// The value of every allowed property must be read.
type properties struct {
	r             *reader
	id            property
	rest          int // bytes of the packet that follow the properties
	count         int
	allowed, seen propertySet
}

func (r *reader) properties(allowed propertySet) properties {
	n := int(r.varint("Property Length"))
	if n > len(r.b) {
		r.fail(malformed("2.2.2.1", "Property Length is beyond the end of the packet"))
	}
	return properties{r: r, rest: len(r.b) - n, allowed: allowed}
}

// next steps to the next property, and checks that it may stand here.
func (p *properties) next() bool {
	r := p.r
	if r.err != nil || len(r.b) == p.rest {
		return false
	}
	if len(r.b) < p.rest {
		r.fail(malformed("2.2.2.1", propertyNames[p.id]+" is beyond the Property Length"))
		return false
	}
	id := r.varint("property identifier")
	if id >= uint32(len(propertyNames)) || p.allowed&(1<<id) == 0 {
		r.fail(malformed("2.2.2.2", "a property that this packet cannot have"))
		return false
	}
	p.id = property(id)
	repeats := p.id == userProperty || p.id == subscriptionID && p.allowed&(1<<topicAlias) != 0
	if p.seen&(1<<id) != 0 && !repeats {
		r.fail(protocolError("2.2.2.2", propertyNames[id]+" comes more than once"))
		return false
	}
	p.seen |= 1 << id
	if p.count++; p.count > MaxProperties {
		r.fail(&Error{Clause: "4.13.2", Reason: QuotaExceeded, Text: "too many properties", Limit: "properties"})
		return false
	}
	return true
}

func (p *properties) has(id property) bool { return p.seen&(1<<id) != 0 }

func (p *properties) uint16() uint16 { return p.r.uint16(propertyNames[p.id]) }
func (p *properties) uint32() uint32 { return p.r.uint32(propertyNames[p.id]) }
func (p *properties) text() string   { return p.r.text(propertyNames[p.id]) }
func (p *properties) binary() []byte { return p.r.binary(propertyNames[p.id]) }

// bit reads a byte that is 0 or 1.
func (p *properties) bit(clause string) byte {
	b := p.r.byte(propertyNames[p.id])
	if b > 1 {
		p.r.fail(protocolError(clause, propertyNames[p.id]+" is neither 0 nor 1"))
	}
	return b
}

// positive16 reads a two byte integer that cannot be 0.
func (p *properties) positive16(clause string, reason ReasonCode) uint16 {
	n := p.uint16()
	if n == 0 {
		p.r.fail(&Error{Clause: clause, Reason: reason, Text: propertyNames[p.id] + " is 0"})
	}
	return n
}

// positive32 reads a four byte integer that cannot be 0.
func (p *properties) positive32(clause string) uint32 {
	n := p.uint32()
	if n == 0 {
		p.r.fail(protocolError(clause, propertyNames[p.id]+" is 0"))
	}
	return n
}

func (p *properties) subscriptionID() uint32 {
	n := p.r.varint(propertyNames[p.id])
	if n == 0 {
		p.r.fail(protocolError("3.8.2.1.2", "Subscription Identifier is 0"))
	}
	return n
}

func (p *properties) user() UserProperty {
	name := p.r.text("name of a User Property")
	return UserProperty{name, p.r.text("value of a User Property")}
}

// needsMethod refuses Authentication Data without an Authentication Method.
func (p *properties) needsMethod(clause string) {
	if p.has(authData) && !p.has(authMethod) {
		p.r.fail(protocolError(clause, "Authentication Data without Authentication Method"))
	}
}

var reasonAllowed = setOf(reasonString, userProperty)

// reasonProperties reads the properties that all acknowledgements have.
func (r *reader) reasonProperties() (reason string, user []UserProperty) {
	for p := r.properties(reasonAllowed); p.next(); {
		switch p.id {
		case reasonString:
			reason = p.text()
		case userProperty:
			user = append(user, p.user())
		}
	}
	return reason, user
}

// userProperties reads properties that can only be User Properties.
func (r *reader) userProperties() (user []UserProperty) {
	for p := r.properties(setOf(userProperty)); p.next(); {
		user = append(user, p.user())
	}
	return user
}

func appendReasonProperties(dst []byte, reason string, user []UserProperty) []byte {
	place := len(dst)
	dst = append(dst, 0)
	dst = appendTextProperty(dst, reasonString, reason)
	dst = appendUser(dst, user)
	return closeLength(dst, place)
}

func appendUser(dst []byte, user []UserProperty) []byte {
	for i := range user {
		dst = append(dst, byte(userProperty))
		dst = appendText(dst, user[i].Name)
		dst = appendText(dst, user[i].Value)
	}
	return dst
}

// appendTextProperty writes a property unless it is empty.
func appendTextProperty(dst []byte, id property, s string) []byte {
	if s == "" {
		return dst
	}
	return appendText(append(dst, byte(id)), s)
}

// appendBinaryProperty writes a property unless it is nil.
func appendBinaryProperty(dst []byte, id property, b []byte) []byte {
	if b == nil {
		return dst
	}
	return appendBinary(append(dst, byte(id)), b)
}

// append16 writes a property unless it is 0.
func append16(dst []byte, id property, n uint16) []byte {
	if n == 0 {
		return dst
	}
	return appendUint16(append(dst, byte(id)), n)
}

// append32 writes a property if it is present.
func append32(dst []byte, id property, n uint32, present bool) []byte {
	if !present {
		return dst
	}
	return appendUint32(append(dst, byte(id)), n)
}

// appendFlag writes a property of one byte if it is present.
func appendFlag(dst []byte, id property, value byte, present bool) []byte {
	if !present {
		return dst
	}
	return append(dst, byte(id), value)
}
