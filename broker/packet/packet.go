// Package packet encodes and decodes the control packets of MQTT 3.1, 3.1.1 and 5.0.
//
// There is one value type per packet, with the same two verbs everywhere: a Decoder
// makes the value from bytes, Append makes the bytes from the value. The package knows
// no sockets and no clocks, and keeps no reference to its input except where a field
// says so.
//
// Sources: "MQTT Version 3.1.1" (OASIS Standard, 29 October 2014) and "MQTT Version 5.0"
// (OASIS Standard, 7 March 2019). Errors and tests name their clauses, as in [MQTT-2.1.3-1].
package packet

// A Version is a protocol level as it stands in CONNECT, without the bridge bit.
type Version byte

// The protocol levels.
const (
	V31  Version = 3 // protocol name "MQIsdp"
	V311 Version = 4
	V5   Version = 5
)

// A Type is a control packet type, the upper four bits of the first byte (clause 2.1.2).
type Type byte

// The control packet types.
const (
	CONNECT Type = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH // 5.0 only
)

// A QoS is a quality of service level, 0 to 2.
type QoS byte

// A UserProperty is one name-value pair. Order and repetition are kept (5.0, 3.3.2.3.7).
type UserProperty struct{ Name, Value string }

// A Header is the fixed header of a packet.
type Header struct {
	Type   Type
	Flags  byte // the lower four bits of the first byte
	Length int  // bytes that follow, at most 268,435,455
}
