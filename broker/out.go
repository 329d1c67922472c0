package broker

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"gateway/broker/packet"
)

// out carries packets to one network connection. Whoever has bytes for it appends them; a
// goroutine that lives only while there is something to write takes them all at once.
//
// Its lock is the innermost: it is held while bytes are appended, never while they are written.
type out struct {
	nc        net.Conn
	version   packet.Version
	limit     int           // bytes waiting beyond which there is no room
	writeTime time.Duration // for the peer to take what one Write holds

	mu       sync.Mutex
	raw      syscall.RawConn // nil if the connection is no plain socket
	buf      *[]byte         // waiting, in a buffer of the pool; nil: nothing
	flushing bool
	ending   bool           // nothing may be appended; the connection is closed after what waits
	last     time.Time      // when it is closed at the latest, once it is ending
	drained  func()         // called, without the lock, when there is room again
	wanted   bool           // somebody found no room
	broken   error          // why the peer took no more
	flushers sync.WaitGroup // the goroutine in flush
	work     func()         // what it does, made once
	acks     ackLine
	ackLimit int    // places in acks beyond which the peer is not to be read
	less     signal // told when there is less to send or to acknowledge

	// Of the goroutine in flush alone:
	try   func(fd uintptr) bool // attempt, made once
	rest  []byte                // that has not been written to raw
	errno syscall.Errno
}

// lastWriteTime is how long a peer has for its last packet. It is shorter than the time that a
// gateway takes to stop.
const lastWriteTime = time.Second

// Connections have a buffer only while something waits to be written. It grows with that.
const (
	firstOutBuffer = 1 << 10  // bytes of a new one
	mostOutBuffer  = 64 << 10 // bytes beyond which it is not kept for others
)

var outBuffers = sync.Pool{New: func() any { b := make([]byte, 0, firstOutBuffer); return &b }}

func (o *out) init(nc net.Conn, l *Limits) {
	o.nc, o.limit, o.writeTime = nc, l.OutBytes, l.WriteTime
	o.ackLimit, o.less = 2*int(l.ReceiveMaximum), make(signal, 1)
	o.work = func() {
		defer o.flushers.Done()
		o.flush()
	}
}

// plain tells that the bytes of the client are those on the wire of a socket, nil if they are not.
func (o *out) plain(raw syscall.RawConn) {
	o.mu.Lock()
	o.raw, o.try = raw, o.attempt
	o.mu.Unlock()
}

// An encoder is a packet that appends itself to a buffer.
type encoder interface {
	Append(dst []byte, v packet.Version) []byte
}

// send appends a packet, unless the connection is ending.
func (o *out) send(p encoder) {
	o.mu.Lock()
	if !o.ending {
		b := o.open()
		*b = p.Append(*b, o.version)
		o.kick()
	}
	o.mu.Unlock()
}

// publish is send for a PUBLISH, which the compiler can keep on the stack.
func (o *out) publish(p *packet.Publish) {
	o.mu.Lock()
	if !o.ending {
		b := o.open()
		*b = p.Append(*b, o.version)
		o.kick()
	}
	o.mu.Unlock()
}

// open returns the buffer to append to. The lock is held.
func (o *out) open() *[]byte {
	if o.buf == nil {
		o.buf = outBuffers.Get().(*[]byte)
	}
	return o.buf
}

// waiting returns how many bytes wait to be written. The lock is held.
func (o *out) waiting() int {
	if o.buf == nil {
		return 0
	}
	return len(*o.buf)
}

// discard throws away what waits. The lock is held.
func (o *out) discard() {
	if o.buf != nil {
		recycle(o.buf)
		o.buf = nil
	}
}

// recycle gives a buffer back to the pool.
func recycle(b *[]byte) {
	if cap(*b) <= mostOutBuffer {
		*b = (*b)[:0]
		outBuffers.Put(b)
	}
}

// room reports whether more may be appended. If not, drained will be called.
func (o *out) room() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wanted = !o.ending && o.waiting() >= o.limit
	return !o.ending && !o.wanted
}

// laden reports whether the peer is not to be read for now, because it takes too little of what it
// has been answered, or the disk too little of what it has sent. less tells when to look again.
func (o *out) laden() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.ending && (o.waiting() >= 2*o.limit || len(o.acks.waiting) >= o.ackLimit)
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
		b := o.open()
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
		b := o.open()
		*b = o.acks.leave(*b)
	}
	o.kick()
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
		b := o.open()
		*b = last.Append(*b, o.version)
	}
	o.ending, o.acks = true, ackLine{}
	o.last = time.Now().Add(lastWriteTime)
	_ = o.nc.SetWriteDeadline(o.last)
	o.start()
	o.less.give()
}

// kick starts the flush of what waits. The lock is held.
func (o *out) kick() {
	if o.buf != nil {
		o.start()
	}
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
	for {
		o.mu.Lock()
		b, raw := o.buf, o.raw
		if b == nil {
			o.flushing = false
			ending := o.ending
			o.mu.Unlock()
			if ending {
				o.hangUp()
			}
			return
		}
		o.buf = nil
		wanted, drained := o.wanted, o.drained
		o.wanted = false
		o.mu.Unlock()
		o.less.give()

		//crash:before-write
		err := o.write(raw, *b)
		//crash:written
		recycle(b)
		if err != nil {
			o.mu.Lock()
			o.ending, o.acks, o.broken = true, ackLine{}, err
			o.discard()
			o.less.give()
			o.mu.Unlock()
		} else if wanted && drained != nil {
			drained()
		}
	}
}

// writePiece is how many bytes of a long write have a time of their own, so that a slow peer has
// enough of it. A record of TLS has as many.
const writePiece = 16 << 10

// write writes b. What a socket takes at once needs no deadline, which costs as much as to encode
// some packets.
func (o *out) write(raw syscall.RawConn, b []byte) error {
	if raw == nil {
		return o.insist(b)
	}
	o.rest, o.errno = b, 0
	err := raw.Write(o.try)
	b, o.rest = o.rest, nil
	switch {
	case err != nil:
		return err
	case o.errno != 0:
		return o.errno
	case len(b) == 0:
		return nil
	}
	if err := o.insist(b); err != nil {
		return err
	}
	o.mu.Lock()
	if !o.ending {
		_ = o.nc.SetWriteDeadline(time.Time{})
	}
	o.mu.Unlock()
	return nil
}

// attempt writes as much of the rest as the socket takes now.
func (o *out) attempt(fd uintptr) bool {
	const most = 64 << 10 // bytes of one call, during which the runtime cannot stop this thread
	for len(o.rest) > 0 {
		piece := o.rest[:min(len(o.rest), most)]
		n, errno := socketWrite(fd, piece)
		if errno != syscall.EAGAIN {
			o.errno = errno
		}
		o.rest = o.rest[n:]
		if n < len(piece) {
			break
		}
	}
	return true
}

// insist writes b, in the time that the peer has for it.
func (o *out) insist(b []byte) error {
	for len(b) > 0 {
		o.mu.Lock()
		deadline := o.last
		if !o.ending {
			deadline = time.Now().Add(o.writeTime)
		}
		_ = o.nc.SetWriteDeadline(deadline)
		o.mu.Unlock()
		n, err := o.nc.Write(b[:min(len(b), writePiece)])
		if err != nil {
			return err
		}
		b = b[n:]
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

// wait returns when no flush is running. Nothing may be appended any more.
func (o *out) wait() { o.flushers.Wait() }

// A signal says that something has changed since its receiver last looked. It has room for one:
// when it is full the receiver will look anyway.
type signal chan struct{}

func (s signal) give() {
	select {
	case s <- struct{}{}:
	default:
	}
}
