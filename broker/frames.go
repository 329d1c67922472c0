package broker

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"gateway/broker/packet"
)

// A frames reader cuts a stream of bytes into packets. A connection that is quiet has no buffer:
// it takes one from a common pool when bytes have come. The buffer grows with what has really
// arrived, never with what a header announces.
type frames struct {
	r     io.Reader
	raw   syscall.RawConn // nil if the connection is no plain socket
	limit int             // bytes of one packet
	large *atomic.Int64   // told the size of buf, if it is not of the pool
	srv   *Server

	packets, bytes uint32 // returned by next and not counted yet
	buf            []byte
	start          int // of what has not been consumed

	pooled  *[]byte            // buf, if it is of the pool
	attempt func(uintptr) bool // try, made once
	waited  bool               // the last fill found nothing at first, as far as is known
	resting bool               // the next bytes are waited for on a small stack, if possible
	errno   syscall.Errno
}

const (
	pooledBuffer = 16 << 10 // bytes that a read from a plain socket takes at most
	ownBuffer    = 1 << 10  // bytes of the first buffer of another connection
	quietBuffer  = 64       // bytes of the one that it has while it is quiet
)

var buffers = sync.Pool{New: func() any { b := make([]byte, pooledBuffer); return &b }}

// A waiter is a connection that can wait for bytes before they are read, on a smaller stack.
type waiter interface {
	// Await returns when there is something to read, or with an error of reading.
	Await() error
}

// newFrames returns a reader of packets up to limit bytes, headers included.
func newFrames(nc net.Conn, limit int, large *atomic.Int64, s *Server) *frames {
	f := &frames{r: nc, limit: limit, large: large, srv: s}
	f.attempt = f.try
	if s, ok := nc.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			f.raw = raw
		}
	}
	return f
}

// next returns the next packet of a decoder that is in the buffer; ok is false when it is not there in full.
// The body is valid until fill is called.
func (f *frames) next(d *packet.Decoder) (h packet.Header, body []byte, ok bool, err error) {
	b := f.buf[f.start:]
	h, n, err := d.Header(b)
	if err != nil || n == 0 {
		return h, nil, false, err
	}
	if n+h.Length > f.limit {
		if h.Type == packet.CONNECT && len(b) < n+packet.PeekLength {
			return h, nil, false, nil // the refusal is written in its version
		}
		return h, nil, false, &packet.Error{
			Clause: "MQTT-3.1.2-24",
			Reason: packet.PacketTooLarge,
			Text:   fmt.Sprintf("%s packet of %d bytes: the limit is %d", h.Type, n+h.Length, f.limit),
			Limit:  "packet_size",
		}
	}
	if len(b) < n+h.Length {
		return h, nil, false, nil
	}
	f.start += n + h.Length
	f.packets++
	f.bytes += uint32(n + h.Length)
	return h, b[n : n+h.Length], true, nil
}

// more reports whether there are bytes after the last packet.
func (f *frames) more() bool { return f.start < len(f.buf) }

// fill reads more bytes, after those that are not consumed yet.
func (f *frames) fill() error {
	f.waited = false
	f.count()
	rest := len(f.buf) - f.start
	if rest == 0 && f.raw != nil {
		f.release()
		return f.await()
	}
	if f.resting {
		if w, ok := f.r.(waiter); ok {
			if err := w.Await(); err != nil {
				return err
			}
		}
		f.resting = false
	}
	if f.start > 0 {
		f.buf = f.buf[:copy(f.buf, f.buf[f.start:])]
		f.start = 0
	}
	if rest == 0 && cap(f.buf) > pooledBuffer {
		f.release() // it was busy and may be quiet now
	}
	switch {
	case f.buf == nil:
		f.buf = make([]byte, 0, quietBuffer)
	case cap(f.buf)-rest < ownBuffer/2:
		if cap(f.buf) >= scarceBytes && f.srv.memory.scarce.Load() {
			return errScarce("a large packet")
		}
		f.grow()
	}
	n, err := f.r.Read(f.buf[rest:cap(f.buf)])
	f.buf = f.buf[:rest+n]
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// quiet gives up the buffer, unless it has a part of a packet.
func (f *frames) quiet() {
	if !f.more() {
		f.release()
	}
	f.resting = true
}

// count counts what next has returned.
func (f *frames) count() {
	if f.packets > 0 {
		f.srv.stats.PacketsReceived.Add(int64(f.packets))
		f.srv.stats.BytesReceived.Add(int64(f.bytes))
		f.packets, f.bytes = 0, 0
	}
}

// grow doubles the buffer.
func (f *frames) grow() {
	b := append(make([]byte, 0, max(2*cap(f.buf), ownBuffer)), f.buf...)
	f.release()
	f.buf = b
	f.large.Store(int64(cap(b)))
}

// release gives the buffer back.
func (f *frames) release() {
	if f.pooled != nil {
		buffers.Put(f.pooled)
	}
	f.pooled, f.buf, f.start = nil, nil, 0
	f.large.Store(0)
}

// await waits until there is something to read, and reads it into a buffer of the pool.
func (f *frames) await() error {
	f.errno = 0
	if err := f.raw.Read(f.attempt); err != nil {
		return err
	}
	if f.errno != 0 {
		return f.errno
	}
	if f.buf == nil {
		return io.EOF
	}
	return nil
}

// try reads from the socket; false says that nothing has come yet.
func (f *frames) try(fd uintptr) bool {
	pooled := buffers.Get().(*[]byte)
	b := *pooled
	n, errno := socketRead(fd, b)
	if n > 0 {
		f.buf, f.pooled = b[:n], pooled
		return true
	}
	buffers.Put(pooled)
	if errno == syscall.EAGAIN {
		f.waited = true
		return false
	}
	f.errno = errno
	return true
}
