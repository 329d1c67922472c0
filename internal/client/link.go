package client

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"gateway/broker/packet"
)

// maxUnsent is how many bytes may wait for the writer before senders of QoS 0 have to.
const maxUnsent = 256 << 10

// A link is the network connection: bytes wait in it for its writer, which sends them in
// batches, and it knows why it ended.
type link struct {
	conn      net.Conn
	version   packet.Version
	keepAlive time.Duration // 0: none

	wake chan struct{} // size 1: a wake-up that nobody has seen yet stands for every later one
	stop chan struct{} // closed when the connection has ended

	mu      *sync.Mutex   // of the session; guards what follows
	unsent  []byte        // waits for the writer
	writing bool          // a batch is on its way to the kernel
	leaving bool          // DISCONNECT is among it: that the server closes is no error
	err     error         // why the connection ended
	proof   *proof        // a re-authentication that goes on; nil: none
	changed chan struct{} // closed at the next change that may be awaited; nil: nobody waits
}

// An encoder is a packet.
type encoder interface {
	Append(dst []byte, v packet.Version) []byte
}

// put appends a packet to what waits for the writer. The lock is held.
func (l *link) put(p encoder) {
	l.unsent = p.Append(l.unsent, l.version)
	l.wakeWriter()
}

func (l *link) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default: // it is awake already
	}
}

// Read makes a link the reader of its connection. The writer sends what is waiting before the
// reader may block: acknowledgements leave in batches, and none waits for the next packet.
func (l *link) Read(b []byte) (int, error) {
	l.wakeWriter()
	if l.keepAlive > 0 {
		if err := l.conn.SetReadDeadline(time.Now().Add(l.keepAlive * 3 / 2)); err != nil {
			return 0, err
		}
	}
	return l.conn.Read(b)
}

// write sends what is unsent, and a PINGREQ once in a keep alive interval, until the connection
// has ended.
func (l *link) write() {
	var ping <-chan time.Time
	if l.keepAlive > 0 {
		ticker := time.NewTicker(l.keepAlive)
		defer ticker.Stop()
		ping = ticker.C
	}
	var batch []byte
	for {
		select {
		case <-l.stop:
			return
		case <-ping:
			l.mu.Lock()
			l.unsent = (&packet.Ping{Type: packet.PINGREQ}).Append(l.unsent, l.version)
		case <-l.wake:
			l.mu.Lock()
		}
		batch, l.unsent = l.unsent, batch[:0]
		l.writing = true
		l.notify()
		l.mu.Unlock()
		if len(batch) > 0 {
			if _, err := l.conn.Write(batch); err != nil {
				l.fail(fmt.Errorf("write: %w", err))
				return
			}
		}
		l.mu.Lock()
		l.writing = false
		l.notify()
		l.mu.Unlock()
	}
}

// flushed reports whether everything has gone to the kernel. The lock is held.
func (l *link) flushed() bool { return len(l.unsent) == 0 && !l.writing }

// fail ends the connection; the first reason stays.
func (l *link) fail(err error) {
	l.mu.Lock()
	first := l.err == nil
	if first {
		if l.leaving {
			err = ErrClosed
		}
		l.err = err
		close(l.stop)
		l.notify()
	}
	l.mu.Unlock()
	if first {
		_ = l.conn.Close() // err is why
	}
}

// await blocks until ready. The lock is held on entry, on return and while ready runs, not
// between.
func (l *link) await(ctx context.Context, ready func() bool) error {
	for l.err == nil && !ready() {
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = ctx.Err()
		}
		l.mu.Lock()
		if err != nil {
			return err
		}
	}
	return l.err
}

// notify wakes whoever awaits. The lock is held.
func (l *link) notify() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}
