package packet

// An Error tells why a packet is refused: which rule it breaks, and the reason code that the
// standard names for it.
type Error struct {
	// Clause is a conformance statement ("MQTT-3.3.1-4") or a section ("2.2.2.2") of MQTT 5.0.
	// A rule of MQTT 3.1.1 alone begins with "3.1.1 ", a section of MQTT 3.1 with "3.1 ".
	Clause string
	Reason ReasonCode // goes into CONNACK or DISCONNECT where the version has one
	Text   string
	Limit  string // that is exceeded, as the configuration names it; empty: none
}

func (e *Error) Error() string {
	return e.Reason.String() + ": " + e.Text + " [" + e.Clause + "]"
}

// ErrProtocolName is the error of a CONNECT that does not speak MQTT at all. The server closes
// the connection, and need not answer [MQTT-3.1.2-1].
var ErrProtocolName error = &Error{Clause: "MQTT-3.1.2-1", Reason: UnsupportedProtocolVersion, Text: `protocol name is neither "MQTT" nor "MQIsdp"`}

func malformed(clause, text string) *Error {
	return &Error{Clause: clause, Reason: MalformedPacket, Text: text}
}
func protocolError(clause, text string) *Error {
	return &Error{Clause: clause, Reason: ProtocolError, Text: text}
}
