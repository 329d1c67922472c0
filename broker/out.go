package broker

import (
	"net"
	"sync"
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
	buf      []byte // waiting
	spare    []byte // written before, kept to be filled again
	flushing bool
	ending   bool           // nothing may be appended; the connection is closed after what waits
	drained  func()         // called, without the lock, when there is room again
	wanted   bool           // somebody found no room
	flushers sync.WaitGroup // the goroutine in flush

	// Acknowledgements leave in the order of the packets that they answer [MQTT-4.6.0-2..4]. Each
	// has its place here from the arrival of the packet until it is ready and at the front.
	acks  []ack
	first uint64        // place of acks[0]
	space chan struct{} // of size 1: told when an acknowledgement has left; one that is full says so already
}

// An ack is one acknowledgement that has to wait for its turn.
type ack struct {
	bytes []byte
	ready bool
}

// lastWriteTime is how long a peer has for its last packet. It is shorter than the time that a
// gateway takes to stop.
const lastWriteTime = time.Second

// keepBuffer is how many bytes of buffer an idle connection keeps.
const keepBuffer = 512

func (o *out) init(nc net.Conn, l *Limits) {
	o.nc, o.limit, o.writeTime = nc, l.OutBytes, l.WriteTime
	o.space = make(chan struct{}, 1)
}

// An encoder is a packet that appends itself to a buffer.
type encoder interface {
	Append(dst []byte, v packet.Version) []byte
}

// send appends a packet, unless the connection is ending.
func (o *out) send(p encoder) {
	o.mu.Lock()
	if !o.ending {
		o.buf = p.Append(o.buf, o.version)
		o.kick()
	}
	o.mu.Unlock()
}

// publish is send for a PUBLISH, which the compiler can keep on the stack.
func (o *out) publish(p *packet.Publish) {
	o.mu.Lock()
	if !o.ending {
		o.buf = p.Append(o.buf, o.version)
		o.kick()
	}
	o.mu.Unlock()
}

// room reports whether more may be appended. If not, drained will be called.
func (o *out) room() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wanted = !o.ending && len(o.buf) >= o.limit
	return !o.ending && !o.wanted
}

// reserve takes the next place in the order of acknowledgements.
func (o *out) reserve() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.acks = append(o.acks, ack{})
	return o.first + uint64(len(o.acks)) - 1
}

// complete fills a place with its acknowledgement, and sends those whose turn has come.
func (o *out) complete(place uint64, a packet.Ack) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ending {
		return
	}
	if place == o.first {
		o.buf = a.Append(o.buf, o.version)
		o.pop()
	} else {
		o.acks[place-o.first] = ack{a.Append(nil, o.version), true}
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
	o.acks[place-o.first] = ack{s.Append(nil, o.version), true}
	o.advance()
}

// advance sends the acknowledgements whose turn has come. The lock is held.
func (o *out) advance() {
	for len(o.acks) > 0 && o.acks[0].ready {
		o.buf = append(o.buf, o.acks[0].bytes...)
		o.pop()
	}
	o.kick()
	select {
	case o.space <- struct{}{}:
	default:
	}
}

func (o *out) pop() {
	o.acks[0] = ack{}
	o.acks = o.acks[1:]
	o.first++
	if len(o.acks) == 0 {
		o.acks = nil
	}
}

// pending returns how many acknowledgements have not left.
func (o *out) pending() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.acks)
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
		o.buf = last.Append(o.buf, o.version)
	}
	o.ending, o.acks = true, nil
	o.writeTime = lastWriteTime
	_ = o.nc.SetWriteDeadline(time.Now().Add(lastWriteTime))
	if !o.flushing {
		o.flushing = true
		o.flushers.Go(o.flush)
	}
	select {
	case o.space <- struct{}{}:
	default:
	}
}

// kick starts the flush of what waits. The lock is held.
func (o *out) kick() {
	if !o.flushing && len(o.buf) > 0 {
		o.flushing = true
		o.flushers.Go(o.flush)
	}
}

// flush writes until nothing waits. After an error the connection is closed, which its reader
// notices, and the rest is thrown away.
func (o *out) flush() {
	for {
		o.mu.Lock()
		if cap(o.spare) > keepBuffer && len(o.buf) == 0 {
			o.spare = nil
		}
		if len(o.buf) == 0 {
			o.flushing = false
			ending := o.ending
			o.mu.Unlock()
			if ending {
				_ = o.nc.Close()
			}
			return
		}
		b := o.buf
		o.buf = o.spare[:0]
		wanted, drained, deadline := o.wanted, o.drained, time.Now().Add(o.writeTime)
		o.wanted = false
		o.mu.Unlock()

		_ = o.nc.SetWriteDeadline(deadline)
		_, err := o.nc.Write(b)

		o.mu.Lock()
		o.spare = b
		if err != nil {
			o.ending, o.buf, o.acks = true, nil, nil
		}
		o.mu.Unlock()
		if err != nil {
			_ = o.nc.Close()
		}
		if wanted && drained != nil && err == nil {
			drained()
		}
	}
}

// wait returns when no flush is running. Nothing may be appended any more.
func (o *out) wait() { o.flushers.Wait() }
