package bridge

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"gateway/broker/packet"
)

var (
	errEnded = errors.New("the connection has ended") // all that the library is told
	errPaho  = errors.New("the MQTT library wrote what it was not asked to write")
)

// A wire stands between an MQTT library and the socket, and sees whole packets.
//
// The library makes CONNECT, PUBLISH, SUBSCRIBE, UNSUBSCRIBE and PINGREQ, and sees the answers to
// CONNECT, SUBSCRIBE, UNSUBSCRIBE and PINGREQ. Packets of the QoS flows that come from the cloud
// pass it by: the wire gives them to the receiver, and sends the receiver's answers itself. For
// the library would answer PUBREC before that is durable, or would have to be told what it may
// keep. It sees only what the wire has decoded and found right.
//
// The library never sees an error but the end of reading: it does not notice a lost connection
// from Write in every case, and a Publish that meets a lost connection may hang. Here Write
// always succeeds, and Read fails only when no Publish is under way.
type wire struct {
	net.Conn
	*sender
	in      receiver
	link    link // what in is given
	library library
	opts    connectOptions

	// Used by the reader alone.
	buf      *bufio.Reader
	decoder  packet.Decoder
	rest     []byte // of a packet that the library has not read to its end
	answered bool   // CONNACK has come
	prover   Prover // nil: no authentication method

	// calls is held while the library is asked to send.
	calls sync.Mutex

	written []byte // of a packet that the library has not written to its end
}

// A library is what differs between the MQTT libraries.
type library interface {
	// sees returns what the library is to see of an acknowledgement, nil if nothing.
	sees(a packet.Ack) []byte
	// answered is given the SUBACK or UNSUBACK of the cloud, which is well formed. It returns
	// what the library is to see, or why the connection must end.
	answered(a packet.Suback, raw, body []byte) ([]byte, error)
	// wrote is given a packet that the library has written, to put the right packet identifier
	// into it. It reports whether the library was asked for it.
	wrote(h packet.Header, raw, body []byte) bool
}

func newWire(conn net.Conn, v packet.Version, o connectOptions, l *life, in receiver, lib library) *wire {
	return &wire{
		Conn: conn, sender: newSender(conn, v, l, o.stall), in: in, opts: o, library: lib,
		buf:     bufio.NewReaderSize(&patientReader{conn, o.keepAlive + keepAliveSlack, &l.sign}, 8<<10),
		decoder: packet.Decoder{Version: v},
	}
}

// keepAliveSlack is what a living cloud may take longer than the keep alive to send its next
// byte: a library may look at its clock every 5 s, and the answer to PINGREQ has the rest.
const keepAliveSlack = 15 * time.Second

// A patientReader gives up a peer that sends nothing for a time. A large packet on a slow line
// is not nothing.
type patientReader struct {
	conn    net.Conn
	silence time.Duration
	sign    *sign
}

func (r *patientReader) Read(b []byte) (int, error) {
	if err := r.conn.SetReadDeadline(time.Now().Add(r.silence)); err != nil {
		return 0, err
	}
	n, err := r.conn.Read(b)
	if n > 0 {
		r.sign.heard(time.Now())
	}
	return n, err
}

// Deadlines are the wire's own affair; the library's would lift them.
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// Close ends the connection.
func (w *wire) Close() error {
	w.life.end(errClosed)
	return nil
}

// call runs one call of the library that ends in Write, unless the connection has ended. If the
// library refuses it, what it was asked and what it wrote may have parted: the connection ends.
func (w *wire) call(f func() error) error {
	w.calls.Lock()
	defer w.calls.Unlock()
	if err := w.life.cause(); err != nil {
		return err
	}
	if err := f(); err != nil {
		err = fmt.Errorf("MQTT library: %w", err)
		w.life.end(err)
		return err
	}
	return nil
}

// Read gives the library the next packet that it is to see.
func (w *wire) Read(b []byte) (int, error) {
	for len(w.rest) == 0 {
		p, err := w.next()
		if err != nil {
			w.life.end(err)
			w.calls.Lock() // a Publish that is under way ends well, later ones do not begin
			defer w.calls.Unlock()
			return 0, errEnded
		}
		w.rest = p
	}
	n := copy(b, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// next reads one packet. It returns what the library is to see of it, if anything.
func (w *wire) next() ([]byte, error) {
	raw := make([]byte, 0, 16)
	var h packet.Header
	for n := 0; n == 0; {
		b, err := w.buf.ReadByte()
		if err != nil {
			return nil, err
		}
		raw = append(raw, b)
		if h, n, err = packet.ParseHeader(raw); err != nil {
			return nil, fmt.Errorf("%w: %w", errProtocol, err)
		}
	}
	if h.Length > w.opts.maxPacket {
		return nil, w.skip(h)
	}
	start := len(raw)
	raw = append(raw, make([]byte, h.Length)...)
	if _, err := io.ReadFull(w.buf, raw[start:]); err != nil {
		return nil, err
	}
	return w.received(h, raw, raw[start:])
}

// skip reads past a PUBLISH that is too large. If it ended the connection, the cloud would send
// the same message again for ever. Its topic, at most 64 KiB, tells what it was.
func (w *wire) skip(h packet.Header) error {
	if h.Type != packet.PUBLISH || !w.answered {
		return fmt.Errorf("%w: %s of %d bytes, the limit of this bridge is %d", errProtocol, h.Type, h.Length, w.opts.maxPacket)
	}
	head := make([]byte, 2)
	if _, err := io.ReadFull(w.buf, head); err != nil {
		return err
	}
	size := int(binary.BigEndian.Uint16(head))
	if h.Flags&0b0110 != 0 {
		size += 2 // the packet identifier
	}
	if len(head)+size > h.Length {
		return fmt.Errorf("%w: the topic of a PUBLISH is longer than the packet", errProtocol)
	}
	head = append(head, make([]byte, size)...)
	if _, err := io.ReadFull(w.buf, head[2:]); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, w.buf, int64(h.Length-len(head))); err != nil {
		return err
	}
	if w.decoder.Version >= packet.V5 {
		head = append(head, 0) // no properties
	}
	p, err := w.decoder.Publish(h.Flags, head)
	if err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	return w.in.tooLarge(p, h.Length)
}

// received gives one packet to whom it concerns.
func (w *wire) received(h packet.Header, raw, body []byte) ([]byte, error) {
	if w.answered == (h.Type == packet.CONNACK) { // CONNACK comes first, and once
		if h.Type == packet.DISCONNECT && w.decoder.Version >= packet.V5 {
			return nil, w.disconnected(body)
		}
		if h.Type == packet.AUTH && w.decoder.Version >= packet.V5 {
			return nil, w.challenged(body)
		}
		return nil, fmt.Errorf("%w: %s at the wrong time", errProtocol, h.Type)
	}
	switch h.Type {
	case packet.CONNACK:
		return raw, w.connack(body)
	case packet.PUBLISH:
		p, err := w.decoder.Publish(h.Flags, body)
		if err == nil && p.Properties != nil && p.Properties.TopicAlias > 0 {
			err = errors.New("a topic alias, and we allow none [MQTT-3.1.2-26]")
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errProtocol, err)
		}
		return nil, w.in.publish(p)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		a, err := w.decoder.Ack(h.Type, body)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errProtocol, err)
		}
		seen := w.library.sees(a)
		return seen, w.in.acknowledged(a)
	case packet.SUBACK, packet.UNSUBACK:
		a, err := w.decoder.Suback(h.Type, body)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errProtocol, err)
		}
		return w.library.answered(a, raw, body)
	case packet.PINGRESP:
		return raw, nil
	case packet.DISCONNECT:
		if w.decoder.Version >= packet.V5 {
			return nil, w.disconnected(body)
		}
	}
	return nil, fmt.Errorf("%w: %s comes from a client only", errProtocol, h.Type)
}

// connack reads the body of CONNACK.
func (w *wire) connack(body []byte) error {
	v := w.decoder.Version
	if v < packet.V5 && len(body) == 2 && body[1] != 0 {
		return refusal{code: body[1], version: v}
	}
	c, err := w.decoder.Connack(body)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errProtocol, err)
	case c.Reason != packet.Success:
		r := refusal{code: byte(c.Reason), version: v}
		if c.Properties != nil {
			r.text = c.Properties.ReasonString
		}
		return r
	}
	if err := w.proven(c.Properties); err != nil {
		return err
	}
	w.answered = true
	hello := welcome{sessionPresent: c.SessionPresent, qos: 2}
	if p := c.Properties; p != nil {
		hello.window, hello.packet = int(p.ReceiveMaximum), int(min(p.MaximumPacketSize, packet.MaxLength))
		hello.noRetain, hello.noWildcard = p.NoRetain, p.NoWildcard
		if p.HasMaximumQoS {
			hello.qos = p.MaximumQoS
		}
	}
	w.in.connected(w.link, hello)
	return nil
}

// disconnected returns the error of a DISCONNECT of the cloud (5.0, 3.14).
func (w *wire) disconnected(body []byte) error {
	d, err := w.decoder.Disconnect(body)
	if err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	return dismissal{d.Reason, d.ReasonString}
}

// Write takes a packet of the library's, or a part of one.
func (w *wire) Write(b []byte) (int, error) {
	w.written = append(w.written, b...)
	for len(w.written) > 0 {
		h, n, err := packet.ParseHeader(w.written)
		if err != nil {
			w.life.end(errors.Join(errPaho, err))
			return len(b), nil
		}
		if n == 0 || len(w.written) < n+h.Length {
			return len(b), nil
		}
		own := w.written[:n+h.Length]
		if !w.library.wrote(h, own, own[n:]) {
			w.life.end(errPaho)
		}
		w.queue(own) // which copies
		w.written = append(w.written[:0], w.written[len(own):]...)
	}
	if cap(w.written) > 2*maxUnsent {
		w.written = nil
	}
	return len(b), nil
}
