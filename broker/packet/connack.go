package packet

// A Connack is a CONNACK packet (clause 3.2).
type Connack struct {
	SessionPresent bool
	Reason         ReasonCode // written as a return code before 5.0, see ReasonCode.ReturnCode
	Properties     *ConnackProperties
}

// ConnackProperties are the properties of a CONNACK (5.0, 3.2.2.3).
type ConnackProperties struct {
	SessionExpiry       uint32
	HasSessionExpiry    bool
	ReceiveMaximum      uint16 // 0: absent
	MaximumQoS          QoS
	HasMaximumQoS       bool
	NoRetain            bool   // Retain Available is present and 0
	MaximumPacketSize   uint32 // 0: absent
	AssignedClientID    string
	TopicAliasMaximum   uint16
	ReasonString        string
	User                []UserProperty
	NoWildcard          bool // Wildcard Subscription Available is present and 0
	NoSubscriptionID    bool // Subscription Identifiers Available is present and 0
	NoShared            bool // Shared Subscription Available is present and 0
	ServerKeepAlive     uint16
	HasServerKeepAlive  bool
	ResponseInformation string
	ServerReference     string
	AuthMethod          string
	HasAuthMethod       bool
	AuthData            []byte
}

var connackAllowed = setOf(sessionExpiry, receiveMaximum, maximumQoS, retainAvailable,
	maximumPacketSize, assignedClientID, topicAliasMaximum, reasonString, userProperty,
	wildcardAvailable, subscriptionAvailable, sharedAvailable, serverKeepAlive,
	responseInformation, serverReference, authMethod, authData)

// Connack reads the body of a CONNACK. Return codes of 3.x become reason codes.
func (d *Decoder) Connack(body []byte) (Connack, error) {
	r := reader{b: body}
	flags := r.byte("Connect Acknowledge Flags")
	c := Connack{SessionPresent: flags&1 != 0}
	if flags > 1 {
		r.fail(malformed("MQTT-3.2.2-1", "reserved bits of the Connect Acknowledge Flags are set"))
	}
	if d.v5() {
		c.Reason = r.reason(CONNACK, "MQTT-3.2.2-8")
		c.readProperties(&r)
	} else if code := r.byte("return code"); int(code) < len(returnCodes) {
		c.Reason = returnCodes[code]
	} else {
		r.fail(protocolError("3.1.1 3.2.2.3", "return code is reserved"))
	}
	if c.Reason != Success && c.SessionPresent {
		r.fail(protocolError("MQTT-3.2.2-6", "Session Present with a refusal"))
	}
	if err := r.end(); err != nil {
		return Connack{}, err
	}
	return c, nil
}

func (c *Connack) readProperties(r *reader) {
	p := r.properties(connackAllowed)
	for p.next() {
		if c.Properties == nil {
			c.Properties = new(ConnackProperties)
		}
		c.Properties.read(&p)
	}
	p.needsMethod("3.2.2.3.18")
}

func (c *ConnackProperties) read(p *properties) {
	switch p.id {
	case sessionExpiry:
		c.SessionExpiry, c.HasSessionExpiry = p.uint32(), true
	case receiveMaximum:
		c.ReceiveMaximum = p.positive16("3.2.2.3.3", ProtocolError)
	case maximumQoS:
		c.MaximumQoS, c.HasMaximumQoS = QoS(p.bit("3.2.2.3.4")), true
	case retainAvailable:
		c.NoRetain = p.bit("3.2.2.3.5") == 0
	case maximumPacketSize:
		c.MaximumPacketSize = p.positive32("3.2.2.3.6")
	case assignedClientID:
		c.AssignedClientID = p.text()
	case topicAliasMaximum:
		c.TopicAliasMaximum = p.uint16()
	case reasonString:
		c.ReasonString = p.text()
	case userProperty:
		c.User = append(c.User, p.user())
	case wildcardAvailable:
		c.NoWildcard = p.bit("3.2.2.3.11") == 0
	case subscriptionAvailable:
		c.NoSubscriptionID = p.bit("3.2.2.3.12") == 0
	case sharedAvailable:
		c.NoShared = p.bit("3.2.2.3.13") == 0
	case serverKeepAlive:
		c.ServerKeepAlive, c.HasServerKeepAlive = p.uint16(), true
	case responseInformation:
		c.ResponseInformation = p.text()
	case serverReference:
		c.ServerReference = p.text()
	case authMethod:
		c.AuthMethod, c.HasAuthMethod = p.text(), true
	case authData:
		c.AuthData = p.binary()
	}
}

// Append appends the packet to dst. Before 5.0 the reason becomes a return code; 3.1 has no
// Session Present.
func (c *Connack) Append(dst []byte, v Version) []byte {
	dst, place := open(dst, CONNACK)
	var flags byte
	if c.SessionPresent && c.Reason == Success && v >= V311 {
		flags = 1
	}
	if v < V5 {
		return closeLength(append(dst, flags, c.Reason.ReturnCode()), place)
	}
	dst = append(dst, flags, byte(c.Reason))
	at := len(dst)
	dst = append(dst, 0)
	if c.Properties != nil {
		dst = c.Properties.append(dst)
	}
	return closeLength(closeLength(dst, at), place)
}

func (c *ConnackProperties) append(dst []byte) []byte {
	dst = append32(dst, sessionExpiry, c.SessionExpiry, c.HasSessionExpiry)
	dst = append16(dst, receiveMaximum, c.ReceiveMaximum)
	dst = appendFlag(dst, maximumQoS, byte(c.MaximumQoS), c.HasMaximumQoS)
	dst = appendFlag(dst, retainAvailable, 0, c.NoRetain)
	dst = append32(dst, maximumPacketSize, c.MaximumPacketSize, c.MaximumPacketSize != 0)
	dst = appendTextProperty(dst, assignedClientID, c.AssignedClientID)
	dst = append16(dst, topicAliasMaximum, c.TopicAliasMaximum)
	dst = appendTextProperty(dst, reasonString, c.ReasonString)
	dst = appendUser(dst, c.User)
	dst = appendFlag(dst, wildcardAvailable, 0, c.NoWildcard)
	dst = appendFlag(dst, subscriptionAvailable, 0, c.NoSubscriptionID)
	dst = appendFlag(dst, sharedAvailable, 0, c.NoShared)
	if c.HasServerKeepAlive {
		dst = appendUint16(append(dst, byte(serverKeepAlive)), c.ServerKeepAlive)
	}
	dst = appendTextProperty(dst, responseInformation, c.ResponseInformation)
	dst = appendTextProperty(dst, serverReference, c.ServerReference)
	if c.HasAuthMethod {
		dst = appendText(append(dst, byte(authMethod)), c.AuthMethod)
		dst = appendBinaryProperty(dst, authData, c.AuthData)
	}
	return dst
}
