package packet

// An Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP packet (clauses 3.4 to 3.7).
type Ack struct {
	Type   Type
	ID     uint16
	Reason ReasonCode // 5.0 only
	// Reason String and User Properties, 5.0 only.
	ReasonString string
	User         []UserProperty
}

// A Disconnect is a DISCONNECT packet (clause 3.14). Before 5.0 it has no content.
type Disconnect struct {
	Reason           ReasonCode
	SessionExpiry    uint32 // client to server
	HasSessionExpiry bool
	ReasonString     string
	ServerReference  string
	User             []UserProperty
}

// An Auth is an AUTH packet (5.0, 3.15).
type Auth struct {
	Reason       ReasonCode
	Method       string
	Data         []byte
	ReasonString string
	User         []UserProperty
}

// A Ping is a PINGREQ or PINGRESP packet.
type Ping struct{ Type Type }
