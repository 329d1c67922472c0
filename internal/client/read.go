package client

import (
	"bufio"
	"fmt"
	"io"

	"gateway/broker/packet"
)

const (
	readBuffer = 64 << 10
	maxPacket  = 64 << 20 // bytes of one packet from the server
)

// A reader cuts the stream of a connection into packets.
type reader struct {
	in      *bufio.Reader
	decoder packet.Decoder
	used    int // bytes of in that the last body aliased
}

// next returns the next packet. The body is valid until next is called again.
func (r *reader) next() (packet.Header, []byte, error) {
	if _, err := r.in.Discard(r.used); err != nil {
		return packet.Header{}, nil, err
	}
	r.used = 0
	h, n, err := r.header()
	if err != nil {
		return h, nil, err
	}
	if h.Length > maxPacket {
		return h, nil, fmt.Errorf("%v of %d bytes: the limit is %d", h.Type, h.Length, maxPacket)
	}
	if n+h.Length <= r.in.Size() {
		b, err := r.in.Peek(n + h.Length)
		if err != nil {
			return h, nil, err
		}
		r.used = n + h.Length
		return h, b[n:], nil
	}
	if _, err := r.in.Discard(n); err != nil {
		return h, nil, err
	}
	body, err := io.ReadAll(io.LimitReader(r.in, int64(h.Length))) // grows with what has arrived
	if err == nil && len(body) < h.Length {
		err = io.ErrUnexpectedEOF
	}
	return h, body, err
}

// header waits for a fixed header, of 2 to 5 bytes.
func (r *reader) header() (packet.Header, int, error) {
	for size := 2; ; size++ {
		b, err := r.in.Peek(size)
		if err != nil {
			return packet.Header{}, 0, err
		}
		if h, n, err := packet.ParseHeader(b); err != nil || n > 0 {
			return h, n, err
		}
	}
}

// A receiver handles what the server sends.
type receiver struct {
	l       *link
	s       *Session
	receive func(packet.Publish) // nil: nobody wants messages
}

// run handles packets until the connection has ended.
func (v *receiver) run(r *reader) {
	for {
		h, body, err := r.next()
		if err == nil {
			err = v.handle(&r.decoder, h, body)
		}
		if err != nil {
			v.l.fail(err)
			return
		}
	}
}

func (v *receiver) handle(d *packet.Decoder, h packet.Header, body []byte) error {
	switch h.Type {
	case packet.PUBLISH:
		p, err := d.Publish(h.Flags, body)
		if err != nil {
			return err
		}
		v.deliver(p)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		p, err := d.Ack(h.Type, body)
		if err != nil {
			return err
		}
		v.acknowledged(p)
	case packet.SUBACK, packet.UNSUBACK:
		p, err := d.Suback(h.Type, body)
		if err != nil {
			return err
		}
		v.answered(p)
	case packet.PINGRESP:
	case packet.AUTH:
		p, err := d.Auth(body)
		if err != nil {
			return err
		}
		return v.authenticated(p)
	case packet.DISCONNECT:
		p, err := d.Disconnect(body)
		if err != nil {
			return err
		}
		return &Error{Op: "disconnected", Reason: p.Reason, Text: p.ReasonString}
	default:
		return fmt.Errorf("the server sent %v, which is not a server's to send", h.Type)
	}
	return nil
}

// deliver hands a message over, then acknowledges it.
func (v *receiver) deliver(p packet.Publish) {
	v.l.mu.Lock()
	fresh := v.s.receive(p)
	v.l.mu.Unlock()
	if fresh && v.receive != nil {
		v.receive(p)
	}
	answer := packet.Ack{Type: packet.PUBACK, ID: p.ID}
	switch p.QoS {
	case 0:
		return
	case 2:
		answer.Type = packet.PUBREC
	}
	v.l.mu.Lock()
	defer v.l.mu.Unlock()
	v.l.put(&answer)
}

func (v *receiver) acknowledged(p packet.Ack) {
	v.l.mu.Lock()
	var o *outgoing
	if p.Type == packet.PUBREL {
		v.s.release(p.ID)
	} else {
		o = v.s.acknowledge(p)
	}
	v.l.mu.Unlock()
	if o != nil {
		o.done(p.Reason, nil)
	}
}

func (v *receiver) answered(p packet.Suback) {
	v.l.mu.Lock()
	defer v.l.mu.Unlock()
	if answer, ok := v.s.answers[p.ID]; ok {
		delete(v.s.answers, p.ID)
		answer <- p
	}
}
