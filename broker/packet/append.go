package packet

import (
	"encoding/binary"
	"unicode/utf8"
)

// maxString is the largest number of bytes in a string or Binary Data (clauses 1.5.4, 1.5.6).
const maxString = 65_535

// open begins a packet, or any field that has a length before it: it leaves one byte for the
// length, and returns its place for closeLength.
func open(dst []byte, t Type) ([]byte, int) {
	return append(dst, byte(t)<<4|t.flags(), 0), len(dst) + 1
}

// closeLength writes the length of what follows the byte at place. What follows moves in the rare
// case that the length needs more than that byte.
func closeLength(dst []byte, place int) []byte {
	n := len(dst) - place - 1
	if n < 0x80 {
		dst[place] = byte(n)
		return dst
	}
	more := varintSize(n) - 1
	dst = append(dst, "\x00\x00\x00"[:more]...)
	copy(dst[place+1+more:], dst[place+1:])
	appendVarint(dst[:place], uint32(n))
	return dst
}

func appendVarint(dst []byte, n uint32) []byte {
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

func varintSize(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	}
	return 4
}

func appendUint16(dst []byte, n uint16) []byte { return binary.BigEndian.AppendUint16(dst, n) }
func appendUint32(dst []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(dst, n) }

func appendText(dst []byte, s string) []byte {
	s = fit(s)
	return append(appendUint16(dst, uint16(len(s))), s...)
}

func appendBinary(dst, b []byte) []byte {
	b = b[:min(len(b), maxString)]
	return append(appendUint16(dst, uint16(len(b))), b...)
}

// fit cuts a string that no packet can hold, between two characters.
func fit(s string) string {
	if len(s) <= maxString {
		return s
	}
	n := maxString
	for n > maxString-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
