package packet

// A Connect is a CONNECT packet (clause 3.1).
type Connect struct {
	Version    Version
	Bridge     bool // bit 0x80 of the protocol level: the peer is a bridge
	CleanStart bool // Clean Session before 5.0
	KeepAlive  uint16
	ClientID   string
	Will       *Will // nil: none
	Username   string
	Password   []byte
	// HasUsername and HasPassword tell an empty field from an absent one.
	HasUsername, HasPassword bool
	Properties               ConnectProperties // zero before 5.0
}

// A Will is the message that the server publishes when a connection ends without DISCONNECT.
type Will struct {
	Topic      string
	Payload    []byte // a copy of its own
	QoS        QoS
	Retain     bool
	Delay      uint32             // seconds (5.0, 3.1.3.2.2)
	Properties *PublishProperties // nil when there are none
}

// ConnectProperties are the properties of a CONNECT (5.0, 3.1.2.11).
type ConnectProperties struct {
	SessionExpiry     uint32 // seconds; 0xFFFFFFFF never
	HasSessionExpiry  bool
	ReceiveMaximum    uint16 // 0: absent, 65,535 applies
	MaximumPacketSize uint32 // 0: absent, no limit
	TopicAliasMaximum uint16
	RequestResponse   bool // Request Response Information
	NoProblemInfo     bool // Request Problem Information is present and 0
	AuthMethod        string
	HasAuthMethod     bool
	AuthData          []byte
	User              []UserProperty
}

var (
	connectAllowed = setOf(sessionExpiry, receiveMaximum, maximumPacketSize, topicAliasMaximum,
		requestResponseInfo, requestProblemInfo, userProperty, authMethod, authData)
	willAllowed = setOf(willDelay, payloadFormat, messageExpiry, contentType, responseTopic,
		correlationData, userProperty)
)

// The bits of the Connect Flags (clause 3.1.2.3) and of the protocol level.
const (
	flagReserved   = 0x01
	flagCleanStart = 0x02
	flagWill       = 0x04
	flagWillRetain = 0x20
	flagPassword   = 0x40
	flagUsername   = 0x80

	bridgeBit = 0x80
)

// Connect reads the body of a CONNECT and sets the decoder's Version as soon as it is known, so
// that also a refusal can be written in it. A level that is not spoken here is refused with
// UnsupportedProtocolVersion, a foreign protocol with ErrProtocolName. An empty client
// identifier is accepted, and in 3.1 one of more than 23 characters.
func (d *Decoder) Connect(body []byte) (Connect, error) {
	r := reader{b: body}
	var c Connect
	if err := c.readProtocol(&r); err != nil {
		return Connect{}, err
	}
	d.Version = c.Version
	if d.v5() && d.padded {
		return Connect{}, padded("Remaining Length")
	}
	flags := r.byte("Connect Flags")
	if err := checkConnectFlags(flags, c.Version); r.err == nil && err != nil {
		return Connect{}, err
	}
	c.CleanStart = flags&flagCleanStart != 0
	c.KeepAlive = r.uint16("Keep Alive")
	if c.Version >= V5 {
		c.Properties.read(&r)
	}
	c.ClientID = r.text("client identifier")
	if flags&flagWill != 0 {
		c.Will = readWill(&r, flags, c.Version)
	}
	// In 3.1 the flags may be set without the fields (3.1, 3.1).
	missing := func() bool { return c.Version == V31 && len(r.b) == 0 }
	if flags&flagUsername != 0 && !missing() {
		c.HasUsername, c.Username = true, r.text("user name")
	}
	if flags&flagPassword != 0 && !missing() {
		c.HasPassword, c.Password = true, r.binary("password")
	}
	if err := r.end(); err != nil {
		return Connect{}, err
	}
	return c, nil
}

// PeekLength is how many bytes Peek needs behind the fixed header to know the version.
const PeekLength = 7

// Peek sets the decoder's Version from the beginning of a CONNECT, fixed header included, that is
// refused before it has come in full. Version stays 0 if it is none that is spoken here.
func (d *Decoder) Peek(b []byte) {
	h, n, err := ParseHeader(b)
	var c Connect
	if err == nil && h.Type == CONNECT && c.readProtocol(&reader{b: b[n:]}) == nil {
		d.Version = c.Version
	}
}

// readProtocol reads the protocol name and level (clauses 3.1.2.1 and 3.1.2.2).
func (c *Connect) readProtocol(r *reader) error {
	name := r.raw("protocol name")
	level := r.byte("protocol level")
	if r.err != nil {
		return r.err
	}
	mqtt := string(name) == "MQTT"
	if !mqtt && string(name) != "MQIsdp" {
		return ErrProtocolName
	}
	switch {
	case mqtt && level == byte(V5):
		c.Version = V5
	case mqtt && level&^bridgeBit == byte(V311):
		c.Version, c.Bridge = V311, level&bridgeBit != 0
	case !mqtt && level&^bridgeBit == byte(V31):
		c.Version, c.Bridge = V31, level&bridgeBit != 0
	default:
		return &Error{Clause: "MQTT-3.1.2-2", Reason: UnsupportedProtocolVersion, Text: "protocol level is none of 3.1, 3.1.1 and 5.0"}
	}
	return nil
}

func checkConnectFlags(flags byte, v Version) error {
	qos := flags >> 3 & 3
	if v == V31 && flags&flagWill == 0 {
		flags, qos = flags&^flagWillRetain, 0 // they are disregarded (3.1, 3.1)
	}
	switch {
	case flags&flagReserved != 0 && v != V31:
		return malformed("MQTT-3.1.2-3", "reserved bit of the Connect Flags is set")
	case flags&flagWill == 0 && qos != 0:
		return malformed("MQTT-3.1.2-11", "Will QoS without Will Flag")
	case qos == 3:
		return malformed("MQTT-3.1.2-12", "Will QoS is 3")
	case flags&flagWill == 0 && flags&flagWillRetain != 0:
		return malformed("MQTT-3.1.2-13", "Will Retain without Will Flag")
	case v < V5 && flags&flagPassword != 0 && flags&flagUsername == 0:
		return malformed("3.1.1 MQTT-3.1.2-22", "password without user name")
	}
	return nil
}

func (c *ConnectProperties) read(r *reader) {
	p := r.properties(connectAllowed)
	for p.next() {
		switch p.id {
		case sessionExpiry:
			c.SessionExpiry, c.HasSessionExpiry = p.uint32(), true
		case receiveMaximum:
			c.ReceiveMaximum = p.positive16("3.1.2.11.3", ProtocolError)
		case maximumPacketSize:
			c.MaximumPacketSize = p.positive32("3.1.2.11.4")
		case topicAliasMaximum:
			c.TopicAliasMaximum = p.uint16()
		case requestResponseInfo:
			c.RequestResponse = p.bit("3.1.2.11.6") == 1
		case requestProblemInfo:
			c.NoProblemInfo = p.bit("3.1.2.11.7") == 0
		case userProperty:
			c.User = append(c.User, p.user())
		case authMethod:
			c.AuthMethod, c.HasAuthMethod = p.text(), true
		case authData:
			c.AuthData = p.binary()
		}
	}
	p.needsMethod("3.1.2.11.10")
}

func readWill(r *reader, flags byte, v Version) *Will {
	w := &Will{QoS: QoS(flags >> 3 & 3), Retain: flags&flagWillRetain != 0}
	if v >= V5 {
		for p := r.properties(willAllowed); p.next(); {
			if p.id == willDelay {
				w.Delay = p.uint32()
				continue
			}
			if w.Properties == nil {
				w.Properties = new(PublishProperties)
			}
			w.Properties.read(&p)
		}
	}
	topic := r.raw("will topic")
	if err := topicError(topic, "will topic"); err != nil {
		r.fail(err)
	}
	if len(topic) == 0 {
		r.fail(&Error{Clause: "MQTT-4.7.3-1", Reason: TopicNameInvalid, Text: "will topic is empty"})
	}
	w.Topic = string(topic)
	w.Payload = r.binary("will payload")
	return w
}

// Append appends the packet to dst, in the protocol version v; the Version field is not used.
func (c *Connect) Append(dst []byte, v Version) []byte {
	dst, place := open(dst, CONNECT)
	name, level := "MQTT", byte(v)
	if v == V31 {
		name = "MQIsdp"
	}
	if c.Bridge && v < V5 {
		level |= bridgeBit
	}
	dst = append(appendText(dst, name), level, c.flags())
	dst = appendUint16(dst, c.KeepAlive)
	if v >= V5 {
		dst = c.Properties.append(dst)
	}
	dst = appendText(dst, c.ClientID)
	if c.Will != nil {
		dst = c.Will.append(dst, v)
	}
	if c.HasUsername {
		dst = appendText(dst, c.Username)
	}
	if c.HasPassword {
		dst = appendBinary(dst, c.Password)
	}
	return closeLength(dst, place)
}

func (c *Connect) flags() (flags byte) {
	if c.CleanStart {
		flags |= flagCleanStart
	}
	if c.Will != nil {
		flags |= flagWill | byte(c.Will.QoS)<<3
		if c.Will.Retain {
			flags |= flagWillRetain
		}
	}
	if c.HasUsername {
		flags |= flagUsername
	}
	if c.HasPassword {
		flags |= flagPassword
	}
	return flags
}

func (c *ConnectProperties) append(dst []byte) []byte {
	place := len(dst)
	dst = append(dst, 0)
	dst = append32(dst, sessionExpiry, c.SessionExpiry, c.HasSessionExpiry)
	dst = append16(dst, receiveMaximum, c.ReceiveMaximum)
	dst = append32(dst, maximumPacketSize, c.MaximumPacketSize, c.MaximumPacketSize != 0)
	dst = append16(dst, topicAliasMaximum, c.TopicAliasMaximum)
	dst = appendFlag(dst, requestResponseInfo, 1, c.RequestResponse)
	dst = appendFlag(dst, requestProblemInfo, 0, c.NoProblemInfo)
	dst = appendUser(dst, c.User)
	if c.HasAuthMethod {
		dst = appendText(append(dst, byte(authMethod)), c.AuthMethod)
		dst = appendBinaryProperty(dst, authData, c.AuthData)
	}
	return closeLength(dst, place)
}

func (w *Will) append(dst []byte, v Version) []byte {
	if v >= V5 {
		place := len(dst)
		dst = append(dst, 0)
		dst = append32(dst, willDelay, w.Delay, w.Delay != 0)
		if w.Properties != nil {
			dst = w.Properties.append(dst)
		}
		dst = closeLength(dst, place)
	}
	dst = appendText(dst, w.Topic)
	return appendBinary(dst, w.Payload)
}
