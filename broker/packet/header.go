package packet

// MaxLength is the largest number of bytes that can follow a fixed header (clause 2.1.4).
const MaxLength = 268_435_455

// ParseHeader reads the fixed header at the start of b and returns the number of its bytes, 2
// to 5, or 0 if b does not yet hold all of it. It refuses reserved packet types and flags, a
// Remaining Length of more than four bytes, and pings that are not empty, all as early as they
// can be seen. The limit for the length of a packet belongs to the caller.
//
// It is for packets of which the version is not known, as before CONNECT, and for those of a peer
// of one's own; see the Decoder's Header.
func ParseHeader(b []byte) (h Header, n int, err error) { return parseHeader(b, 0) }

func parseHeader(b []byte, v Version) (h Header, n int, err error) {
	if len(b) == 0 {
		return Header{}, 0, nil
	}
	h.Type, h.Flags = Type(b[0]>>4), b[0]&0x0F
	if h.Type == 0 {
		return Header{}, 0, malformed("2.1.2", "packet type 0 is reserved")
	}
	if h.Type != PUBLISH && h.Flags&h.Type.fixed(v) != h.Type.flags() {
		return Header{}, 0, malformed("MQTT-2.1.3-1", h.Type.String()+" has wrong flags in its fixed header")
	}
	for i := 1; i < len(b); i++ {
		h.Length |= int(b[i]&0x7F) << (7 * (i - 1))
		switch {
		case b[i] < 0x80:
			if h.Length != 0 && (h.Type == PINGREQ || h.Type == PINGRESP) {
				return Header{}, 0, malformed("3.12.1", h.Type.String()+" is not empty")
			}
			return h, i + 1, nil
		case i == 4:
			return Header{}, 0, malformed("1.5.5", "Remaining Length has more than four bytes")
		}
	}
	return Header{}, 0, nil
}

// Header is ParseHeader for the next packet of the decoder's connection. 3.1 leaves most flags
// unused (3.1, 2.1). In 5.0 a Remaining Length has no more bytes than it needs [MQTT-1.5.5-1]; earlier
// versions have no such rule, and that of a CONNECT is for Connect to refuse, which finds out the
// version.
func (d *Decoder) Header(b []byte) (h Header, n int, err error) {
	h, n, err = parseHeader(b, d.Version)
	if n > 2 && n > 1+varintSize(h.Length) {
		if d.v5() {
			return Header{}, 0, padded("Remaining Length")
		}
		d.padded = true
	}
	return h, n, err
}

// flags returns the flags that the fixed header of a packet type has [MQTT-2.1.3-1]; those of
// PUBLISH say more and are its own.
func (t Type) flags() byte {
	switch t {
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		return 0b0010
	}
	return 0
}

// fixed returns the bits of the flags that a packet type has to have as flags says. In 3.1 these
// are only the QoS of the packets that have an identifier for it: DUP says that they come again, and
// nothing else is used (3.1, 2.1 and 3).
func (t Type) fixed(v Version) byte {
	switch {
	case v != V31:
		return 0b1111
	case t.flags() != 0:
		return 0b0110
	}
	return 0
}

var typeNames = [...]string{
	CONNECT: "CONNECT", CONNACK: "CONNACK", PUBLISH: "PUBLISH", PUBACK: "PUBACK",
	PUBREC: "PUBREC", PUBREL: "PUBREL", PUBCOMP: "PUBCOMP", SUBSCRIBE: "SUBSCRIBE",
	SUBACK: "SUBACK", UNSUBSCRIBE: "UNSUBSCRIBE", UNSUBACK: "UNSUBACK", PINGREQ: "PINGREQ",
	PINGRESP: "PINGRESP", DISCONNECT: "DISCONNECT", AUTH: "AUTH",
}

// String returns the name of the packet type as the standard writes it.
func (t Type) String() string {
	if t == 0 || int(t) >= len(typeNames) {
		return "reserved packet type"
	}
	return typeNames[t]
}
