package bridge

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"gateway/broker/packet"
)

const (
	// maxUnsent is how many bytes may wait for the socket before waitRoom waits.
	maxUnsent = 64 << 10
	// maxUnsentAnswers is how many may wait before a cloud that sends without reading is given
	// up: room for an answer to every packet identifier.
	maxUnsentAnswers = maxUnsent + 4*65_535
	// farewell is how long the last bytes of a connection may take.
	farewell = time.Second
)

var (
	errClosed = errors.New("connection closed")
	errDeaf   = errors.New("the cloud does not read what is sent to it")
)

// A sender writes to a connection from one goroutine, so that nobody else waits for the
// network, and closes it at the end of its life.
type sender struct {
	conn    net.Conn
	version packet.Version
	life    *life
	stall   time.Duration // for one write

	mu       sync.Mutex
	unsent   []byte
	closing  bool          // what is unsent is the last
	writable chan struct{} // one slot: there is something to write
	room     chan struct{} // one slot: something was written
	flushed  chan struct{} // closed when the goroutine ends
}

func newSender(conn net.Conn, v packet.Version, l *life, stall time.Duration) *sender {
	s := &sender{
		conn: conn, version: v, life: l, stall: stall,
		writable: make(chan struct{}, 1),
		room:     make(chan struct{}, 1),
		flushed:  make(chan struct{}),
	}
	go s.flush()
	return s
}

// queue appends whole packets to what is unsent. After the end they are forgotten.
func (s *sender) queue(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(b)
}

// add is queue with s.mu held.
func (s *sender) add(b []byte) {
	if s.life.Err() != nil || s.closing {
		return
	}
	s.unsent = append(s.unsent, b...)
	select {
	case s.writable <- struct{}{}:
	default:
	}
}

// answer sends an acknowledgement, see link.
func (s *sender) answer(a packet.Ack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unsent) > maxUnsentAnswers {
		s.life.end(errDeaf)
	}
	s.add(a.Append(nil, s.version))
}

// waitRoom waits until what is unsent is less than maxUnsent.
func (s *sender) waitRoom() error {
	for {
		s.mu.Lock()
		full := len(s.unsent) >= maxUnsent
		s.mu.Unlock()
		if !full {
			return s.life.cause()
		}
		select {
		case <-s.room:
		case <-s.life.Done():
			return s.life.cause()
		}
	}
}

// flush writes until the connection ends: what gathers during one write leaves with the next.
func (s *sender) flush() {
	defer close(s.flushed)
	defer s.conn.Close()
	stop := context.AfterFunc(s.life, func() { s.conn.Close() })
	defer stop()
	var spare []byte
	for {
		select {
		case <-s.writable:
		case <-s.life.Done():
			return
		}
		s.mu.Lock()
		b, closing := s.unsent, s.closing
		s.unsent = spare[:0]
		s.mu.Unlock()
		err := s.write(b)
		if err == nil && closing {
			err = errClosed
		}
		if err != nil {
			s.life.end(err)
			return
		}
		if spare = b; cap(spare) > 2*maxUnsent {
			spare = nil
		}
		select {
		case s.room <- struct{}{}:
		default:
		}
	}
}

func (s *sender) write(b []byte) error {
	if len(b) == 0 {
		return nil // it left with the write before
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.stall)); err != nil {
		return err
	}
	_, err := s.conn.Write(b)
	return err
}

// finish sends DISCONNECT after all that is unsent, ends the connection, and waits for the
// flusher. A cloud that does not take the rest within a second does not get it.
func (s *sender) finish() {
	s.mu.Lock()
	s.add([]byte{byte(packet.DISCONNECT) << 4, 0})
	s.closing = true
	s.mu.Unlock()
	select {
	case <-s.flushed:
	case <-time.After(farewell):
	}
	s.life.end(errClosed)
	<-s.flushed
}
