package packet

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// A reader takes fields from the front of a packet's body. After the first error it yields zero
// values, so that a packet is read in one go and the error looked at once. Each method is told
// what it reads, for the error.
type reader struct {
	b   []byte
	err *Error
}

// fail keeps the first error.
func (r *reader) fail(err *Error) {
	if r.err == nil {
		r.err = err
		r.b = nil
	}
}

// take returns the next n bytes. They alias the packet.
func (r *reader) take(n int, what string) []byte {
	if n > len(r.b) {
		r.fail(malformed("4.13.1", "packet ends within "+what))
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) byte(what string) byte {
	if b := r.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16(what string) uint16 {
	if b := r.take(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32(what string) uint32 {
	if b := r.take(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// varint reads a Variable Byte Integer of at most four bytes (clause 1.5.5), and no more than the
// value needs [MQTT-1.5.5-1].
func (r *reader) varint(what string) uint32 {
	var n uint32
	for shift := 0; shift < 28; shift += 7 {
		b := r.byte(what)
		n |= uint32(b&0x7F) << shift
		if b == 0 && shift > 0 && r.err == nil {
			r.fail(padded(what))
		}
		if b < 0x80 {
			return n
		}
	}
	r.fail(malformed("1.5.5", what+" is a Variable Byte Integer of more than four bytes"))
	return 0
}

// padded is the error of a Variable Byte Integer with more bytes than its value needs.
func padded(what string) *Error {
	return malformed("MQTT-1.5.5-1", what+" has more bytes than it needs")
}

// raw reads Binary Data (clause 1.5.6). It aliases the packet.
func (r *reader) raw(what string) []byte {
	return r.take(int(r.uint16(what)), what)
}

// binary reads Binary Data into a slice of its own.
func (r *reader) binary(what string) []byte {
	return bytes.Clone(r.raw(what))
}

// text reads a UTF-8 Encoded String (clause 1.5.4).
func (r *reader) text(what string) string {
	b := r.raw(what)
	if err := textError(b, what); err != nil {
		r.fail(err)
	}
	if r.err != nil {
		return ""
	}
	return string(b)
}

// textError tells why b is no UTF-8 Encoded String, nil if it is one.
func textError(b []byte, what string) *Error {
	switch {
	case !utf8.Valid(b):
		return malformed("MQTT-1.5.4-1", what+" is not well-formed UTF-8")
	case bytes.IndexByte(b, 0) >= 0:
		return malformed("MQTT-1.5.4-2", what+" contains the null character")
	}
	return nil
}

// id reads a packet identifier, which is never 0.
func (r *reader) id() uint16 {
	id := r.uint16("packet identifier")
	if id == 0 {
		r.fail(protocolError("MQTT-2.2.1-3", "packet identifier is 0"))
	}
	return id
}

// end refuses what follows the last field, and returns the first error.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = malformed("4.13.1", "packet is longer than its content")
	}
	if r.err != nil {
		return r.err
	}
	return nil
}
