package broker

import (
	"fmt"
	"io"

	"gateway/broker/packet"
)

// A frames reader cuts a stream of bytes into packets. Its buffer grows with what has really
// arrived, never with what a header announces, and is given back when nothing is in it.
type frames struct {
	r     io.Reader
	limit int // bytes of one packet
	buf   []byte
	start int  // of what has not been consumed
	full  bool // the last read took all that there was room for
}

const (
	frameBuffer = 2 << 10  // bytes that a quiet connection reads into
	frameBatch  = 64 << 10 // bytes that one read takes at most from a busy one
)

// next returns the next packet that is in the buffer; ok is false when it is not there in full.
// The body is valid until fill is called.
func (f *frames) next() (h packet.Header, body []byte, ok bool, err error) {
	b := f.buf[f.start:]
	h, n, err := packet.ParseHeader(b)
	if err != nil || n == 0 {
		return h, nil, false, err
	}
	if n+h.Length > f.limit {
		return h, nil, false, &packet.Error{
			Clause: "MQTT-3.1.2-24",
			Reason: packet.PacketTooLarge,
			Text:   fmt.Sprintf("%s packet of %d bytes: the limit is %d", h.Type, n+h.Length, f.limit),
		}
	}
	if len(b) < n+h.Length {
		return h, nil, false, nil
	}
	f.start += n + h.Length
	return h, b[n : n+h.Length], true, nil
}

// fill reads more bytes, after those that are not consumed yet.
func (f *frames) fill() error {
	rest := len(f.buf) - f.start
	switch {
	case rest == 0 && cap(f.buf) > 2*frameBuffer && len(f.buf) < cap(f.buf)/4:
		f.buf = nil // it was busy and is quiet now
	case f.start > 0:
		copy(f.buf, f.buf[f.start:])
		f.buf = f.buf[:rest]
	}
	f.start = 0
	if cap(f.buf)-rest < frameBuffer/2 || f.full && cap(f.buf) < frameBatch {
		size := max(2*cap(f.buf), frameBuffer)
		f.buf = append(make([]byte, 0, size), f.buf...)
	}
	room := min(cap(f.buf)-rest, frameBatch)
	n, err := f.r.Read(f.buf[rest : rest+room])
	f.buf, f.full = f.buf[:rest+n], n == room
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}
