package e2e

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A link is the line between the gateway and the cloud: a relay for TCP that can fail in the ways
// in which lines do.
type link struct {
	listener net.Listener
	workers  sync.WaitGroup

	mu     sync.Mutex
	target string
	rate   int // bytes per second that pass each way; 0: all
	last   int // bytes after which a connection is reset; 0: never
	closed bool
	cut    bool
	came   []time.Time   // when connections came that were let through
	open   chan struct{} // closed while bytes pass; a new one while the line is a black hole
	conns  map[net.Conn]struct{}
	lost   map[net.Conn]bool // see forsake
}

func newLink(t *testing.T, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{listener: listener, target: target, open: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(l.open)
	l.workers.Go(l.accept)
	t.Cleanup(l.close)
	return l
}

func (l *link) address() string { return l.listener.Addr().String() }

// restored is restore, and returns when it was.
func (l *link) restored() time.Time {
	now := time.Now()
	l.restore()
	return now
}

// perSecond returns how many connections came in each second since a time.
func (l *link) perSecond(since time.Time) (counts []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, at := range l.came {
		if second := int(at.Sub(since) / time.Second); !at.Before(since) {
			for len(counts) <= second {
				counts = append(counts, 0)
			}
			counts[second]++
		}
	}
	return counts
}

// sever resets all connections, and every new one at once.
func (l *link) sever() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	l.reset()
}

// blackhole keeps all connections, takes new ones, and lets no byte pass.
func (l *link) blackhole() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.open:
		l.open = make(chan struct{})
	default: // it is one
	}
}

// forsake keeps the connections that there are and lets none of their bytes pass any more, as a
// peer does that has lost its power. New connections are not concerned.
func (l *link) forsake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = make(map[net.Conn]bool)
	for c := range l.conns {
		l.lost[c] = true
	}
}

// throttle lets so many bytes pass in a second each way.
func (l *link) throttle(rate int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate = rate
}

// tear resets every connection that has carried so many bytes.
func (l *link) tear(bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = bytes
}

// divert leads to another server, once the connections that there are have been reset.
func (l *link) divert(target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target = target
	l.reset()
}

// restore lets bytes pass again, those that were held back first.
func (l *link) restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut, l.rate, l.last, l.lost = false, 0, 0, nil
	select {
	case <-l.open:
	default:
		close(l.open)
	}
}

func (l *link) close() {
	l.restore()
	_ = l.listener.Close() // ends accept
	l.mu.Lock()
	l.closed = true
	l.reset()
	l.mu.Unlock()
	l.workers.Wait()
}

// reset closes all connections. The lock is held.
func (l *link) reset() {
	for c := range l.conns {
		_ = c.(*net.TCPConn).SetLinger(0) // a reset, not an orderly end
		_ = c.Close()
	}
}

func (l *link) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.workers.Go(func() { l.relay(near) })
	}
}

func (l *link) relay(near net.Conn) {
	defer l.forget(near)
	if !l.keep(near) {
		return
	}
	l.pass()
	l.mu.Lock()
	target := l.target
	l.came = append(l.came, time.Now())
	l.mu.Unlock()
	far, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer l.forget(far)
	if !l.keep(far) {
		return
	}
	var up sync.WaitGroup
	up.Go(func() { l.copy(far, near) })
	l.copy(near, far)
	up.Wait()
}

// keep notes a connection; it returns false if the line is cut.
func (l *link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut || l.closed {
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *link) forget(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	_ = c.Close() // it may be closed
}

// pass waits while the line is a black hole.
func (l *link) pass() {
	l.mu.Lock()
	open := l.open
	l.mu.Unlock()
	<-open
}

// portion returns how many bytes are taken at once: as many as pass in a tenth of a second.
func (l *link) portion(most int) int {
	l.mu.Lock()
	rate := l.rate
	l.mu.Unlock()
	if rate == 0 {
		return most
	}
	time.Sleep(100 * time.Millisecond) // a slow line
	return min(most, rate/10)
}

// swallows reports whether a connection is one of those that were forsaken.
func (l *link) swallows(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost[c]
}

// tears reports whether a connection that has carried so many bytes is to be reset.
func (l *link) tears(bytes int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last > 0 && bytes > l.last
}

// copy moves bytes one way until either side ends, and ends the other.
func (l *link) copy(dst, src net.Conn) {
	buf := make([]byte, 16<<10)
	for passed := 0; ; {
		n, err := src.Read(buf[:l.portion(len(buf))])
		l.pass()
		if l.swallows(src) && (n > 0 || err == nil) {
			continue
		}
		if passed += n; l.tears(passed) {
			_, _ = src.(*net.TCPConn).SetLinger(0), dst.(*net.TCPConn).SetLinger(0)
			err = net.ErrClosed
		} else if n > 0 {
			if _, werr := dst.Write(buf[:n]); err == nil {
				err = werr
			}
		}
		if errors.Is(err, io.EOF) {
			_ = dst.(*net.TCPConn).CloseWrite()
			return
		}
		if err != nil {
			_, _ = dst.Close(), src.Close()
			return
		}
	}
}
