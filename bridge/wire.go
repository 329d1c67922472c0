package bridge

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"gateway/broker/packet"
)

var (
	errEnded = errors.New("the connection has ended") // all that paho is told
	errPaho  = errors.New("the MQTT library wrote what it was not asked to write")
)

// A wire stands between paho.mqtt.golang and the socket, and sees whole packets.
//
// paho makes CONNECT, PUBLISH, SUBSCRIBE and PINGREQ, with packet identifiers of its own
// choice, which do not survive a connection. The wire puts the session's identifiers in their
// place, and back again in PUBACK, PUBCOMP and SUBACK. All the other packets of the QoS
// flows pass paho by: paho would answer PUBREC before that is durable, forgets PUBREL, and
// does not know a repeated PUBLISH. So the wire gives them to the receiver, and sends the
// receiver's answers itself.
//
// paho never sees an error but the end of reading: it does not notice a lost connection from
// Write in every case, and a Publish that meets a lost connection would hang. Here Write
// always succeeds, and Read fails only when no Publish is under way.
type wire struct {
	net.Conn
	*sender
	in   receiver
	link link // what in is given
	opts connectOptions

	// Used by the reader alone.
	buf      *bufio.Reader
	decoder  packet.Decoder
	rest     []byte // of a packet that paho has not read to its end
	answered bool   // CONNACK has come

	// calls is held while paho is asked to send.
	calls sync.Mutex

	ids    sync.Mutex        // guards what follows
	handed []packet.Publish  // given to paho, not yet seen by Write
	paho   map[uint16]uint16 // paho's identifier of a PUBLISH that has left, by ours
	sub    subscription
}

// A subscription is the one SUBSCRIBE that is under way.
type subscription struct {
	id, paho uint16
	filters  int // in SUBSCRIBE; 0: none is under way
}

func newWire(conn net.Conn, o connectOptions, l *life, in receiver) *wire {
	return &wire{
		Conn: conn, sender: newSender(conn, l, o.stall), in: in, opts: o,
		buf:     bufio.NewReaderSize(&patientReader{conn, o.keepAlive + keepAliveSlack, &l.sign}, 8<<10),
		decoder: packet.Decoder{Version: packet.V311},
		paho:    make(map[uint16]uint16),
	}
}

// keepAliveSlack is what a living cloud may take longer than the keep alive to send its next
// byte: paho looks at its clock every 5 s, and the answer to PINGREQ has the rest.
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

// Deadlines are the wire's own affair; paho's would lift them.
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// Close ends the connection.
func (w *wire) Close() error {
	w.life.end(errClosed)
	return nil
}

// Read gives paho the next packet that it is to see.
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

// next reads one packet. It returns what paho is to see of it, if anything.
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
		return nil, fmt.Errorf("the cloud sent a packet of %d bytes: the limit of this bridge is %d, raise it or keep such messages from this client", h.Length, w.opts.maxPacket)
	}
	start := len(raw)
	raw = append(raw, make([]byte, h.Length)...)
	if _, err := io.ReadFull(w.buf, raw[start:]); err != nil {
		return nil, err
	}
	return w.received(h, raw, raw[start:])
}

// received gives one packet to whom it concerns.
func (w *wire) received(h packet.Header, raw, body []byte) ([]byte, error) {
	if w.answered == (h.Type == packet.CONNACK) { // CONNACK comes first, and once
		return nil, fmt.Errorf("%w: %s at the wrong time", errProtocol, h.Type)
	}
	switch h.Type {
	case packet.CONNACK:
		if len(body) != 2 {
			return nil, fmt.Errorf("%w: CONNACK of %d bytes", errProtocol, len(body))
		}
		if body[1] != 0 {
			return nil, refusal(body[1])
		}
		w.answered = true
		w.in.connected(w.link, body[0]&1 == 1)
		return raw, nil
	case packet.PUBLISH:
		p, err := w.decoder.Publish(h.Flags, body)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errProtocol, err)
		}
		return nil, w.in.publish(p)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		a, err := w.decoder.Ack(h.Type, body)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errProtocol, err)
		}
		forPaho := w.forPaho(a)
		return forPaho, w.in.acknowledged(a)
	case packet.SUBACK:
		return w.suback(raw, body)
	case packet.PINGRESP:
		return raw, nil
	}
	return nil, fmt.Errorf("%w: %s comes from a client only", errProtocol, h.Type)
}

// forPaho returns the acknowledgement as paho expects it, nil if it does not concern paho.
func (w *wire) forPaho(a packet.Ack) []byte {
	if a.Type != packet.PUBACK && a.Type != packet.PUBCOMP {
		return nil
	}
	w.ids.Lock()
	id, ok := w.paho[a.ID]
	delete(w.paho, a.ID)
	w.ids.Unlock()
	if !ok {
		return nil
	}
	a.ID = id
	return a.Append(nil, packet.V311)
}

// suback checks what paho does not: more codes than filters would be its panic.
func (w *wire) suback(raw, body []byte) ([]byte, error) {
	w.ids.Lock()
	defer w.ids.Unlock()
	if w.sub.filters == 0 || len(body) != 2+w.sub.filters || binary.BigEndian.Uint16(body) != w.sub.id {
		return nil, fmt.Errorf("%w: SUBACK without its SUBSCRIBE", errProtocol)
	}
	binary.BigEndian.PutUint16(body, w.sub.paho)
	w.sub = subscription{}
	return raw, nil
}

// Write takes one packet of paho's.
func (w *wire) Write(b []byte) (int, error) {
	h, n, err := packet.ParseHeader(b)
	if err != nil || n == 0 || n+h.Length != len(b) {
		w.life.end(errors.Join(errPaho, err))
		return len(b), nil
	}
	own := slices.Clone(b)
	if !w.identify(h, own, own[n:]) {
		w.life.end(errPaho)
	}
	w.queue(own)
	return len(b), nil
}

// identify puts the session's packet identifier in the place of paho's.
func (w *wire) identify(h packet.Header, own, body []byte) bool {
	w.ids.Lock()
	defer w.ids.Unlock()
	switch {
	case h.Type == packet.PUBLISH && h.Flags&0b0110 != 0:
		if len(w.handed) == 0 {
			return false
		}
		p := w.handed[0]
		w.handed = w.handed[1:]
		if p.Dup {
			own[0] |= 0b1000
		}
		id := body[2+int(binary.BigEndian.Uint16(body)):] // behind the topic
		w.paho[p.ID] = binary.BigEndian.Uint16(id)
		binary.BigEndian.PutUint16(id, p.ID)
	case h.Type == packet.SUBSCRIBE:
		w.sub.paho = binary.BigEndian.Uint16(body)
		binary.BigEndian.PutUint16(body, w.sub.id)
	}
	return true
}
