package listen

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// A webSocket carries a stream of bytes in binary messages, whose bounds mean nothing
// [MQTT-6.0.0-2].
type webSocket struct {
	ws    *websocket.Conn
	below *undated
	ahead *bufio.Reader // between below and ws; nil: not known
	in    io.Reader     // what is left of the current message; nil between messages
	err   error         // how reading ended
}

const (
	readBuffer  = 288      // bytes; a frame of a small packet, the rest of many waits below; the library wants more than 256
	writeBuffer = 16 << 10 // bytes, shared by all connections
	controlTime = time.Second
)

// writeBuffers are lent for the time of one Write.
var writeBuffers sync.Pool

// newWebSocket returns the stream in a WebSocket connection, which reads ahead. limit is that of one
// message.
func newWebSocket(ws *websocket.Conn, below *undated, ahead *bufio.Reader, limit int64) *webSocket {
	s := &webSocket{ws: ws, below: below, ahead: ahead}
	ws.SetReadLimit(limit)
	ws.SetPingHandler(func(data string) error {
		s.control(websocket.PongMessage, []byte(data))
		return nil
	})
	ws.SetCloseHandler(func(code int, _ string) error {
		s.control(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""))
		return nil
	})
	return s
}

// Read reads from the binary messages. A text message is refused with status 1003 [MQTT-6.0.0-1],
// one that is too long with 1009.
func (s *webSocket) Read(b []byte) (int, error) {
	for s.err == nil {
		if s.in == nil {
			kind, in, err := s.ws.NextReader()
			if err != nil {
				return 0, s.ended(err)
			}
			if kind != websocket.BinaryMessage {
				s.control(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseUnsupportedData, "MQTT comes in binary messages"))
				return 0, s.ended(errText)
			}
			s.in = in
		}
		n, err := s.in.Read(b)
		if errors.Is(err, io.EOF) {
			s.in, err = nil, nil
		}
		if err != nil {
			err = s.ended(err)
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, s.err
}

// errText is why a connection ends that has sent text.
var errText = errors.New("a WebSocket text message: MQTT comes in binary ones")

// ended notes how reading ended, in the words of a plain connection where it has some.
func (s *webSocket) ended(err error) error {
	var closed *websocket.CloseError
	switch {
	case errors.As(err, &closed) && (closed.Code == websocket.CloseNormalClosure || closed.Code == websocket.CloseGoingAway || closed.Code == websocket.CloseNoStatusReceived):
		err = io.EOF
	case errors.As(err, &closed) && closed.Code == websocket.CloseAbnormalClosure:
		err = io.ErrUnexpectedEOF
	case errors.Is(err, websocket.ErrReadLimit):
		err = fmt.Errorf("a WebSocket message is too long: %w", err)
	}
	s.err, s.in = err, nil
	return err
}

// drained reports whether all that has come from the socket has been read, as far as that is known.
func (s *webSocket) drained() bool {
	l, ok := s.below.in.(*lent)
	return ok && len(l.rest) == 0 && s.ahead != nil && s.ahead.Buffered() == 0
}

// Write sends one message.
func (s *webSocket) Write(b []byte) (int, error) {
	if err := s.ws.WriteMessage(websocket.BinaryMessage, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// farewell says that this side closes the connection.
func (s *webSocket) farewell() {
	s.control(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
}

// control sends a control frame, beside the messages. A peer that does not take it in time goes
// without.
func (s *webSocket) control(kind int, data []byte) {
	s.below.extend(controlTime)
	_ = s.ws.WriteControl(kind, data, time.Now().Add(controlTime))
}

// An undated connection is the one below a WebSocket. Its deadlines belong to the owner of the
// Conn, so that the WebSocket's own are ignored: it would clear them before each Write.
type undated struct {
	net.Conn
	in  io.Reader
	out io.Writer

	mu    sync.Mutex
	until time.Time // the owner's for writing; zero: none
}

// newUndated returns a connection that carries WebSocket over a socket: through TLS, if stream is
// that, or through the socket itself.
func newUndated(socket net.Conn, stream io.ReadWriter) *undated {
	return &undated{Conn: socket, in: lend(stream), out: stream}
}

func (u *undated) Read(b []byte) (int, error)  { return u.in.Read(b) }
func (u *undated) Write(b []byte) (int, error) { return u.out.Write(b) }

// SetDeadline, SetReadDeadline and SetWriteDeadline do nothing.
func (u *undated) SetDeadline(time.Time) error      { return nil }
func (u *undated) SetReadDeadline(time.Time) error  { return nil }
func (u *undated) SetWriteDeadline(time.Time) error { return nil }

// write sets the owner's deadline for writing.
func (u *undated) write(until time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.until = until
	return u.Conn.SetWriteDeadline(until)
}

// extend sees to it that there are d for writing: the owner's deadline may have passed long ago,
// when it wrote last.
func (u *undated) extend(d time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if t := time.Now().Add(d); !u.until.IsZero() && u.until.Before(t) {
		u.until = t
		_ = u.Conn.SetWriteDeadline(t)
	}
}
