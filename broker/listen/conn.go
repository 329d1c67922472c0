package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// A Conn is a client's connection that begins with an agreement: TLS, WebSocket, both, or only
// which of several protocols it is. The embedded connection is the socket, whose deadlines and
// addresses are those of the Conn.
type Conn struct {
	net.Conn
	l *Listener // nil for one that this side has opened

	mu     sync.Mutex
	tls    *tls.Conn  // nil: no TLS
	ws     *webSocket // nil: no WebSocket
	failed bool       // a Write has failed: there is nobody to say farewell to
	closed bool

	rest []byte // read in advance, for Read
}

// First bytes of what may come.
const (
	handshakeRecord = 0x16 // TLS (RFC 8446, section 5.1)
	connectHeader   = 0x10 // MQTT CONNECT
)

// errProtocol is why a connection ends that begins in no way that the listener takes.
var errProtocol = errors.New("this is not what the listener speaks")

// HandshakeContext agrees with the client on what is spoken. It must have returned nil before Read
// and Write are called, and takes as long as the deadlines of the connection allow. ctx ends the
// TLS part of it early, and an answer to HTTP that waits for others.
//
// An HTTP request is answered here. The error is io.EOF then, with some words around: there was a
// connection, but no client of the broker.
//
// Cryptography needs a deep stack, which a goroutine that reads from then on would keep.
func (c *Conn) HandshakeContext(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- c.agree(ctx) }()
	return <-done
}

// agree makes the handshake.
func (c *Conn) agree(ctx context.Context) error {
	secure := c.l.keys != nil
	if secure && c.l.o.Plain {
		first, err := peek(c.Conn)
		if err != nil {
			return err
		}
		secure = first == handshakeRecord
	}
	if secure {
		if err := c.secure(ctx); err != nil {
			return fmt.Errorf("TLS handshake: %w", err)
		}
	}
	speaks, err := c.protocol()
	if err != nil {
		return err
	}
	if speaks == MQTT {
		return nil
	}
	e := exchange{o: &c.l.o, below: newUndated(c.Conn, c.stream()), from: c.RemoteAddr()}
	if c.tls != nil {
		state := c.tls.ConnectionState()
		e.tls = &state
	}
	ws, err := e.serve(ctx, c.rest)
	c.mu.Lock()
	c.ws, c.rest = ws, nil
	c.mu.Unlock()
	return err
}

// secure makes the TLS handshake.
func (c *Conn) secure(ctx context.Context) error {
	k := c.l.keys.current.Load()
	t := tls.Server(c.Conn, k.config)
	if err := t.HandshakeContext(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	c.tls = t
	c.mu.Unlock()
	if len(t.ConnectionState().PeerCertificates) == 0 {
		return nil
	}
	return c.l.join(c, k)
}

// protocol finds out whether the client speaks MQTT or HTTP.
func (c *Conn) protocol() (Protocols, error) {
	takes := c.l.o.Protocols
	if takes == MQTT {
		return MQTT, nil // the broker finds out itself
	}
	begins, err := first(c)
	switch {
	case err != nil:
		return 0, err
	case begins == connectHeader && takes&MQTT > 0:
		return MQTT, nil
	case 'A' <= begins && begins <= 'Z':
		return takes &^ MQTT, nil
	}
	return 0, fmt.Errorf("%w: the first byte is %#02x", errProtocol, begins)
}

// first returns the first byte, which stays to be read.
func first(c *Conn) (byte, error) {
	if c.tls == nil {
		return peek(c.Conn)
	}
	b := make([]byte, 1)
	if _, err := io.ReadFull(c.tls, b); err != nil {
		return 0, err
	}
	c.rest = b
	return b[0], nil
}

// peek waits for the first byte of a socket and leaves it there.
func peek(nc net.Conn) (byte, error) {
	s, ok := nc.(syscall.Conn)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, err
	}
	var b [1]byte
	var n int
	var errno error
	err = raw.Read(func(fd uintptr) bool {
		n, _, errno = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
		for errors.Is(errno, syscall.EINTR) {
			n, _, errno = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
		}
		return !errors.Is(errno, syscall.EAGAIN)
	})
	switch {
	case err != nil:
		return 0, err
	case errno != nil:
		return 0, errno
	case n == 0:
		return 0, io.EOF
	}
	return b[0], nil
}

// stream is what lies below WebSocket: the bytes of TLS or of the socket.
func (c *Conn) stream() io.ReadWriter {
	if c.tls != nil {
		return c.tls
	}
	return c.Conn
}

// SyscallConn returns the socket, if the bytes of the client are those on the wire.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	s, ok := c.Conn.(syscall.Conn)
	if !ok || c.tls != nil || c.ws != nil {
		return nil, errors.ErrUnsupported
	}
	return s.SyscallConn()
}

// DeadlinePasses reports whether can be read on after a deadline for reading has passed. A WebSocket
// keeps its first error.
func (c *Conn) DeadlinePasses() bool { return c.ws == nil }

// Await returns when the client has sent something, or with the error of the socket, as when the
// deadline for reading passes. It wants to be called after a Read that has found nothing more; it may
// return early. Unlike Read, it needs no deep stack to wait on.
func (c *Conn) Await() error {
	if len(c.rest) > 0 || c.ws != nil && !c.ws.drained() {
		return nil
	}
	_, err := peek(c.Conn)
	if errors.Is(err, io.EOF) {
		err = nil // Read says how it ends
	}
	return err
}

// Read reads what the client has sent.
func (c *Conn) Read(b []byte) (int, error) {
	switch {
	case c.ws != nil:
		return c.ws.Read(b)
	case len(c.rest) > 0:
		n := copy(b, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	return c.stream().Read(b)
}

// Write sends to the client. Over WebSocket each Write is a message.
func (c *Conn) Write(b []byte) (n int, err error) {
	if c.ws != nil {
		n, err = c.ws.Write(b)
	} else {
		n, err = c.stream().Write(b)
	}
	if err != nil {
		c.mu.Lock()
		c.failed = true
		c.mu.Unlock()
	}
	return n, err
}

// Close ends the connection, with the farewell that WebSocket and TLS have for it. It takes a
// second at most.
func (c *Conn) Close() error {
	c.mu.Lock()
	t, ws, polite := c.tls, c.ws, !c.failed && !c.closed
	c.closed = true
	c.mu.Unlock()
	if c.l != nil {
		c.l.leave(c)
	}
	if polite && (ws != nil || t != nil) {
		// A peer that takes nothing goes without.
		cut := time.AfterFunc(controlTime, func() { _ = c.Conn.Close() })
		defer cut.Stop()
	}
	if ws != nil && polite {
		ws.farewell()
	}
	if t != nil && polite {
		_ = t.CloseWrite() // the peer may be gone
	}
	return c.Conn.Close()
}

// SetDeadline sets the deadlines for reading and for writing.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetWriteDeadline sets the deadline for writing.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	ws := c.ws
	c.mu.Unlock()
	if ws != nil {
		return ws.below.write(t)
	}
	return c.Conn.SetWriteDeadline(t)
}

// ConnectionState returns the state of TLS, the zero value where there is none.
func (c *Conn) ConnectionState() tls.ConnectionState {
	c.mu.Lock()
	t := c.tls
	c.mu.Unlock()
	if t == nil {
		return tls.ConnectionState{}
	}
	return t.ConnectionState()
}
