package broker

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"gateway/broker/packet"
)

// out carries packets to one network connection. Whoever has bytes for it appends them; a
// goroutine that lives only while there is something to write takes them all at once.
//
// Its lock is the innermost: it is held while bytes are appended, never while they are written.
type out struct {
	srv     *Server
	nc      net.Conn
	version packet.Version

	mu       sync.Mutex
	port     *port          // nil if the connection is no plain socket
	buf      draft          // what waits
	writing  int            // capacity of what is being written
	flushing bool           // somebody writes, or will do so soon
	ending   bool           // nothing may be appended; the connection is closed after what waits
	last     time.Time      // when it is closed at the latest, once it is ending
	drained  func()         // called, without the lock, when there is room again
	wanted   bool           // somebody found no room
	broken   error          // why the peer took no more
	flushers sync.WaitGroup // the goroutine in flush
	work     func()         // what it does, made once
	acks     ackLine
	receives int    // messages that the client may send before they are acknowledged
	keeping  int    // retained messages at QoS 0 that may not be on disk yet
	less     signal // see lessened; nil before somebody waits
}

// lastWriteTime is how long a peer has for its last packet. It is shorter than the time that a
// gateway takes to stop.
const lastWriteTime = time.Second

func (o *out) init(nc net.Conn, s *Server) {
	o.nc, o.srv = nc, s
	o.work = o.flush
}

// usePort has a connection that is a plain socket written to through its port, where only what
// has to wait has a deadline.
func usePort(o *out, p *port) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.port = p
	if !o.ending {
		_ = o.nc.SetWriteDeadline(time.Time{})
	}
}

// lessened returns what is told when there is less to send or to acknowledge. Who waits for it has to
// look whether there is after it was returned, since most connections have nobody who waits.
func lessened(o *out) signal {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.less == nil {
		o.less = make(signal, 1)
	}
	return o.less
}

// lessen tells that there is less.
func lessen(o *out) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.less.give()
}

// An encoder is a packet that appends itself to a buffer.
type encoder interface {
	Append(dst []byte, v packet.Version) []byte
}

// send appends a packet, unless the connection is ending.
func (o *out) send(p encoder) {
	o.mu.Lock()
	if !o.ending {
		b := o.buf.open()
		*b = p.Append(*b, o.version)
		o.start()
	}
	o.mu.Unlock()
}

// publish is send for a PUBLISH, which the compiler can keep on the stack, in a round, if there is
// one.
func (o *out) publish(p *packet.Publish, r *round) {
	o.mu.Lock()
	if !o.ending {
		b := o.buf.open()
		*b = p.Append(*b, o.version)
		if !r.join(o) {
			if r != nil && !o.flushing {
				r.left++
			}
			o.start()
		}
	}
	o.mu.Unlock()
}

// room reports whether more may be appended. If not, drained will be called.
func (o *out) room() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wanted = !o.ending && o.buf.len() >= o.srv.memory.allows(o.srv.limits.OutBytes)
	return !o.ending && !o.wanted
}

// laden reports whether the peer is not to be read for now, because it takes too little of what it
// has been answered, or the disk too little of what it has sent. less tells when to look again.
func (o *out) laden() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.ending && (o.buf.len() >= 2*o.srv.limits.OutBytes || len(o.acks.waiting) >= 2*o.receives || o.keeping >= 2*keepingTurn)
}

// keepingTurn is how many retained messages at QoS 0 a client may bring before the store is asked to make
// haste with them. Nobody acknowledges these, so twice as many hold the client up. Each is a page
// of its own to the store, and in a commit with hundreds of them everybody would wait for some
// milliseconds.
const keepingTurn = 32

// retained counts a message at QoS 0. It returns what is to be called when it is on disk, nil if nobody
// waits for that.
func retained(o *out, retain bool) (done func(packet.ReasonCode)) {
	if !retain {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.keeping++; o.keeping%keepingTurn != 0 {
		return nil
	}
	return func(packet.ReasonCode) { // all that came before are there, too
		o.mu.Lock()
		defer o.mu.Unlock()
		o.keeping -= keepingTurn
		o.less.give()
	}
}

// ends reports whether a connection is ending.
func ends(o *out) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ending
}

// reserve takes the next place in the order of acknowledgements.
func (o *out) reserve() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.acks.reserve()
}

// complete fills a place with its acknowledgement, and sends those whose turn has come.
func (o *out) complete(place uint64, a packet.Ack) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ending {
		return
	}
	if place == o.acks.first {
		b := o.buf.open()
		*b = a.Append(*b, o.version)
		o.acks.pop()
	} else {
		o.acks.fill(place, a.Append(nil, o.version))
	}
	o.advance()
}

// completeSub is complete for a SUBACK or UNSUBACK.
func (o *out) completeSub(place uint64, s *packet.Suback) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ending {
		return
	}
	o.acks.fill(place, s.Append(nil, o.version))
	o.advance()
}

// advance sends the acknowledgements whose turn has come. The lock is held.
func (o *out) advance() {
	if o.acks.due() {
		b, first := o.buf.open(), o.acks.first
		*b = o.acks.leave(*b)
		o.buf.packets += int(o.acks.first-first) - 1
	}
	if !o.buf.empty() {
		o.start()
	}
	o.less.give()
}

// end appends a last packet, if any, and closes the connection once everything is written. It
// does not wait.
func (o *out) end(last encoder) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ending {
		return
	}
	if last != nil {
		b := o.buf.open()
		*b = last.Append(*b, o.version)
	}
	o.ending, o.acks = true, ackLine{}
	o.last = time.Now().Add(lastWriteTime)
	_ = o.nc.SetWriteDeadline(o.last)
	o.start()
	o.less.give()
}

// start starts a flush, unless one is running. The lock is held.
func (o *out) start() {
	if !o.flushing {
		o.flushing = true
		o.flushers.Add(1)
		go o.work()
	}
}

// flush writes until nothing waits. After an error the connection is closed, which its reader
// notices, and the rest is thrown away.
func (o *out) flush() {
	defer o.flushers.Done()
	for {
		o.mu.Lock()
		o.writing = 0
		if o.buf.empty() {
			o.flushing = false
			ending := o.ending
			o.mu.Unlock()
			if ending {
				o.hangUp()
			}
			return
		}
		d, port := o.buf.take(), o.port
		d.count(&o.srv.stats)
		o.writing = cap(*d.b)
		wanted, drained := o.wanted, o.drained
		o.wanted = false
		less := o.less
		o.mu.Unlock()
		less.give()

		//crash:before-write
		err := o.write(port, *d.b)
		//crash:written
		d.free()
		if err != nil {
			o.fail(err)
		} else if wanted && drained != nil {
			drained()
		}
	}
}

// fail notes that the peer takes no more, and throws away what waits.
func (o *out) fail(err error) {
	o.mu.Lock()
	o.ending, o.acks, o.broken = true, ackLine{}, err
	o.buf.free()
	o.less.give()
	o.mu.Unlock()
}

// writePiece is how many bytes of a long write have a time of their own, so that a slow peer has
// enough of it. A record of TLS has as many.
const writePiece = 16 << 10

// write writes b. What a socket takes at once needs no deadline, which costs as much as to encode
// some packets.
func (o *out) write(port *port, b []byte) (err error) {
	if port != nil {
		if b, err = port.write(b); err != nil {
			return err
		}
	}
	late := len(b) > 0
	for len(b) > 0 {
		o.mu.Lock()
		deadline := o.last
		if !o.ending {
			deadline = time.Now().Add(o.srv.limits.WriteTime)
		}
		_ = o.nc.SetWriteDeadline(deadline)
		o.mu.Unlock()
		n, err := o.nc.Write(b[:min(len(b), writePiece)])
		if err != nil {
			return err
		}
		b = b[n:]
	}
	if port != nil && late {
		usePort(o, port)
	}
	return nil
}

// errStuck is why a connection ends whose peer takes nothing.
var errStuck = errors.New("it took nothing for as long as limits.write_timeout allows")

// failure returns why the peer of a connection took no more, nil if it did.
func failure(o *out) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if errors.Is(o.broken, os.ErrDeadlineExceeded) {
		return errStuck
	}
	return o.broken
}

// hangUp closes the connection. TLS takes its leave of the peer, which may take 5 s with one that
// takes nothing; here it has what is left of its time.
func (o *out) hangUp() {
	if t, ok := o.nc.(*tls.Conn); ok {
		o.mu.Lock()
		left := time.Until(o.last)
		o.mu.Unlock()
		cut := time.AfterFunc(left, func() { _ = t.NetConn().Close() })
		defer cut.Stop()
	}
	_ = o.nc.Close()
}

// A signal says that something has changed since its receiver last looked. It has room for one:
// when it is full the receiver will look anyway. Giving a nil one does nothing.
type signal chan struct{}

func (s signal) give() {
	select {
	case s <- struct{}{}:
	default:
	}
}
