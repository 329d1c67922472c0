package packet

// A Ping is a PINGREQ or PINGRESP packet.
type Ping struct{ Type Type }

// Append appends the packet to dst. A ping has no body: ParseHeader has read all of it.
func (p *Ping) Append(dst []byte, _ Version) []byte {
	dst, _ = open(dst, p.Type)
	return dst
}
