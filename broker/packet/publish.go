package packet

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
}

// PublishProperties are the properties of a PUBLISH (5.0, 3.3.2.3). Zero values are absent,
// except where a Has field tells.
type PublishProperties struct {
	PayloadFormat    byte   // 1: the payload is UTF-8
	MessageExpiry    uint32 // seconds
	HasMessageExpiry bool
	TopicAlias       uint16 // 0: none
	ResponseTopic    string
	CorrelationData  []byte
	SubscriptionIDs  []uint32 // server to client only
	ContentType      string
	User             []UserProperty
}
