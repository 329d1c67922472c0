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
