package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"gateway/broker/packet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A peer is the server's side of a connection, played by the test.
type peer struct {
	t       *testing.T
	conn    net.Conn
	version packet.Version
	r       reader
}

// connect makes a client and the peer that has accepted it.
func connect(t *testing.T, o Options, ack packet.Connack) (*Client, *peer) {
	t.Helper()
	c, p, err := tryConnect(t, o, func(p *peer) { p.send(&ack) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, p
}

func tryConnect(t *testing.T, o Options, answer func(*peer)) (*Client, *peer, error) {
	t.Helper()
	mine, theirs := net.Pipe()
	t.Cleanup(func() { theirs.Close() })
	p := &peer{t: t, conn: theirs, version: max(o.Version, packet.V311)}
	p.r = reader{in: bufio.NewReader(theirs), decoder: packet.Decoder{Version: p.version}}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if h, _, err := p.r.next(); err != nil || h.Type != packet.CONNECT {
			t.Errorf("first packet: %v, err = %v, want CONNECT", h.Type, err)
		}
		answer(p)
	}()
	c, err := New(t.Context(), mine, o)
	<-answered
	return c, p, err
}

func (p *peer) send(packets ...encoder) {
	for _, e := range packets {
		if _, err := p.conn.Write(e.Append(nil, p.version)); err != nil {
			p.t.Errorf("peer: %v", err)
		}
	}
}

// expect reads packets and compares them with what they should be, as describe writes them.
func (p *peer) expect(want ...string) {
	p.t.Helper()
	for _, w := range want {
		if got := p.read(); got != w {
			p.t.Fatalf("the client sent %q, want %q", got, w)
		}
	}
}

// read describes the next packet: type, identifier, and of a PUBLISH also DUP and payload.
func (p *peer) read() string {
	if err := p.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err.Error()
	}
	h, body, err := p.r.next()
	if err != nil {
		return err.Error()
	}
	switch h.Type {
	case packet.PUBLISH:
		m, err := p.r.decoder.Publish(h.Flags, body)
		if err != nil {
			return err.Error()
		}
		if m.Dup {
			return fmt.Sprintf("PUBLISH %d dup %s", m.ID, m.Payload)
		}
		return fmt.Sprintf("PUBLISH %d %s", m.ID, m.Payload)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		a, err := p.r.decoder.Ack(h.Type, body)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%v %d", h.Type, a.ID)
	}
	return h.Type.String()
}

func ack(t packet.Type, id uint16) *packet.Ack { return &packet.Ack{Type: t, ID: id} }

// results collects what done callbacks were told.
type results chan string

func (r results) done(name string) func(packet.ReasonCode, error) {
	return func(code packet.ReasonCode, err error) { r <- fmt.Sprintf("%s: %v, %v", name, code, err) }
}

func (r results) want(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-r:
			if got != w {
				t.Fatalf("done told %q, want %q", got, w)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("done was not called, want %q", w)
		}
	}
}

func send(t *testing.T, c *Client, qos packet.QoS, payload string, done func(packet.ReasonCode, error)) {
	t.Helper()
	if err := c.Send(t.Context(), packet.Publish{Topic: "t", QoS: qos, Payload: []byte(payload)}, done); err != nil {
		t.Fatal(err)
	}
}

// A session goes on where the connection broke: what is not acknowledged is sent again in its
// order, with its identifier [MQTT-4.4.0-1], [MQTT-4.6.0-1], and after PUBREC only PUBREL is
// [MQTT-4.3.3-5].
func TestResume(t *testing.T) {
	s, told := NewSession(), make(results, 4)
	c, p := connect(t, Options{Session: s, KeepSession: true}, packet.Connack{})
	send(t, c, 1, "a", told.done("a"))
	send(t, c, 2, "b", told.done("b"))
	send(t, c, 2, "c", told.done("c"))
	p.expect("PUBLISH 1 a", "PUBLISH 2 b", "PUBLISH 3 c")
	p.send(ack(packet.PUBREC, 2))
	p.expect("PUBREL 2")
	p.conn.Close()
	<-c.Done()
	if err := c.Send(t.Context(), packet.Publish{Topic: "t", QoS: 1}, nil); !errors.Is(err, io.EOF) {
		t.Errorf("Send after the end: %v, want io.EOF", err)
	}
	if n := s.Outstanding(); n != 3 {
		t.Fatalf("%d outstanding, want 3", n)
	}

	c, p = connect(t, Options{Session: s, KeepSession: true}, packet.Connack{SessionPresent: true})
	send(t, c, 1, "d", told.done("d"))
	p.expect("PUBLISH 1 dup a", "PUBREL 2", "PUBLISH 3 dup c", "PUBLISH 4 d")
	p.send(ack(packet.PUBACK, 1), ack(packet.PUBCOMP, 2), ack(packet.PUBREC, 3))
	told.want(t, "a: Success, <nil>", "b: Success, <nil>")
	p.expect("PUBREL 3")
	p.send(ack(packet.PUBCOMP, 3), ack(packet.PUBACK, 4))
	told.want(t, "c: Success, <nil>", "d: Success, <nil>")
	if err := c.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

// A server that has lost the session makes the outcome unknown, and the client says so rather
// than sending a QoS 2 message twice.
func TestSessionLost(t *testing.T) {
	s, told := NewSession(), make(results, 1)
	c, p := connect(t, Options{Session: s, KeepSession: true}, packet.Connack{})
	send(t, c, 2, "a", told.done("a"))
	p.expect("PUBLISH 1 a")
	c.Close()
	connect(t, Options{Session: s, KeepSession: true}, packet.Connack{SessionPresent: false})
	told.want(t, "a: Success, "+ErrSessionLost.Error())
}

// Without a Session, deliveries fail with the connection.
func TestPrivateSession(t *testing.T) {
	told := make(results, 1)
	c, p := connect(t, Options{}, packet.Connack{})
	send(t, c, 1, "a", told.done("a"))
	p.expect("PUBLISH 1 a")
	p.conn.Close()
	told.want(t, "a: Success, EOF")
	if _, err := c.Publish(t.Context(), packet.Publish{Topic: "t", QoS: 1}); !errors.Is(err, io.EOF) {
		t.Errorf("Publish: %v, want io.EOF", err)
	}
}

func TestSessionServesOneClient(t *testing.T) {
	s := NewSession()
	connect(t, Options{Session: s}, packet.Connack{})
	mine, theirs := net.Pipe()
	defer theirs.Close()
	if _, err := New(t.Context(), mine, Options{Session: s}); err == nil {
		t.Error("a second connection took the session")
	}
	if _, err := mine.Write(nil); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the refused connection was left open: %v", err)
	}
}

// The server's receive maximum is a window for messages that are sent anew and for those that
// are sent again (5.0, 4.9).
func TestWindow(t *testing.T) {
	s := NewSession()
	two := &packet.ConnackProperties{ReceiveMaximum: 2}
	o := Options{Session: s, KeepSession: true, Version: packet.V5}
	c, p := connect(t, o, packet.Connack{Properties: two})
	send(t, c, 1, "a", nil)
	send(t, c, 1, "b", nil)
	full, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Send(full, packet.Publish{Topic: "t", QoS: 1}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Send with a full window: %v, want DeadlineExceeded", err)
	}
	p.expect("PUBLISH 1 a", "PUBLISH 2 b")
	p.send(ack(packet.PUBACK, 1))
	send(t, c, 1, "c", nil) // waits for the acknowledgement to be read
	p.expect("PUBLISH 3 c")
	c.Close()

	one := &packet.ConnackProperties{ReceiveMaximum: 1}
	_, p = connect(t, o, packet.Connack{SessionPresent: true, Properties: one})
	p.expect("PUBLISH 2 dup b")
	p.send(ack(packet.PUBACK, 2))
	p.expect("PUBLISH 3 dup c")
}

// A QoS 2 message is delivered once, and its identifier may be used again after PUBREL
// [MQTT-4.3.3-10], [MQTT-4.3.3-12], across connections too.
func TestReceiveOnce(t *testing.T) {
	var got []string
	o := Options{Session: NewSession(), KeepSession: true, Receive: func(m packet.Publish) { got = append(got, string(m.Payload)) }}
	first := &packet.Publish{Topic: "t", QoS: 2, ID: 7, Payload: []byte("first")}
	c, p := connect(t, o, packet.Connack{})
	p.send(first)
	p.expect("PUBREC 7")
	c.Close()

	c, p = connect(t, o, packet.Connack{SessionPresent: true})
	again := *first
	again.Dup = true
	p.send(&again)
	p.expect("PUBREC 7")
	p.send(ack(packet.PUBREL, 7))
	p.expect("PUBCOMP 7")
	p.send(&packet.Publish{Topic: "t", QoS: 2, ID: 7, Payload: []byte("second")})
	p.expect("PUBREC 7")
	c.Close()
	if want := []string{"first", "second"}; !slices.Equal(got, want) {
		t.Errorf("delivered %q, want %q", got, want)
	}
}

// A message is acknowledged when Receive has returned, not before.
func TestReceiveHoldsAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		_, p := connect(t, Options{Receive: func(packet.Publish) { <-release }}, packet.Connack{})
		p.send(&packet.Publish{Topic: "t", QoS: 1, ID: 1})
		if err := p.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if h, _, err := p.r.next(); err == nil {
			t.Fatalf("the client sent %v while Receive was running", h.Type)
		}
		close(release)
		p.expect("PUBACK 1")
	})
}

// The client sends PINGREQ within the keep alive [MQTT-3.1.2-20] and gives up on a server that
// is silent for one and a half of it.
func TestKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := connect(t, Options{KeepAlive: 4}, packet.Connack{})
		start := time.Now()
		p.expect("PINGREQ")
		p.send(&packet.Ping{Type: packet.PINGRESP})
		p.expect("PINGREQ")
		if took := time.Since(start); took != 8*time.Second {
			t.Errorf("two pings after %v, want 8s", took)
		}
		<-c.Done()
		if silent := time.Since(start) - 4*time.Second; silent != 6*time.Second {
			t.Errorf("gave up after a silence of %v, want 6s", silent)
		}
		var timeout net.Error
		if err := c.Err(); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("Err = %v, want a timeout", err)
		}
	})
}

// Refusals carry the reason code.
func TestRefusals(t *testing.T) {
	o := Options{Version: packet.V5}
	_, _, err := tryConnect(t, o, func(p *peer) {
		p.send(&packet.Connack{Reason: packet.NotAuthorized, Properties: &packet.ConnackProperties{ReasonString: "not you"}})
	})
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Reason != packet.NotAuthorized || refusal.Text != "not you" {
		t.Errorf("CONNACK 0x87: %v", err)
	}

	c, p := connect(t, o, packet.Connack{})
	send(t, c, 2, "a", func(code packet.ReasonCode, err error) {
		if code != packet.QuotaExceeded || err != nil {
			t.Errorf("PUBREC 0x97: done(%v, %v)", code, err)
		}
	})
	p.expect("PUBLISH 1 a")
	p.send(&packet.Ack{Type: packet.PUBREC, ID: 1, Reason: packet.QuotaExceeded})
	if err := c.Wait(t.Context()); err != nil {
		t.Errorf("Wait after a refused message: %v", err)
	}
	p.send(&packet.Disconnect{Reason: packet.SessionTakenOver})
	<-c.Done()
	if err := c.Err(); !errors.As(err, &refusal) || refusal.Reason != packet.SessionTakenOver {
		t.Errorf("DISCONNECT 0x8E: %v", err)
	}
}

// What a server must not send ends the connection with an error that says so.
func TestBadServer(t *testing.T) {
	for _, tt := range []struct {
		name, bytes, want string
	}{
		{"no CONNACK first", "\xd0\x00", "not CONNACK"},
		{"no MQTT", "HTTP/1.1 400 Bad Request\r\n\r\n", "MQTT-"},
		{"closed", "", "EOF"},
		{"CONNECT from a server", "\x20\x02\x00\x00\x10\x00", "not a server's to send"},
		{"cut off", "\x20\x02\x00\x00\x30\x05\x00", "EOF"},
		{"too large", "\x20\x02\x00\x00\x30\xff\xff\xff\x7f", "limit"},
		{"large and cut off", "\x20\x02\x00\x00\x30\xff\xff\x7f\x00\x01t", "unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _, err := tryConnect(t, Options{}, func(p *peer) {
				if _, err := p.conn.Write([]byte(tt.bytes)); err == nil {
					p.conn.Close()
				}
			})
			if c != nil {
				<-c.Done()
				err = c.Err()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want %q in it", err, tt.want)
			}
		})
	}
}

// A server that accepts and says nothing costs the time that the caller gave.
func TestNoAnswer(t *testing.T) {
	mine, theirs := net.Pipe()
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, mine, Options{KeepAlive: 60}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v, want DeadlineExceeded", err)
	}
}

func TestDialAddress(t *testing.T) {
	for _, tt := range []struct{ address, want string }{
		{"http://localhost", "want mqtt, mqtts, ws or wss://HOST:PORT"},
		{"localhost:1883", "want mqtt, mqtts, ws or wss://HOST:PORT"},
		{"mqtt://", "no host"},
		{"mqtt://a b", "invalid character"},
	} {
		if _, err := Dial(t.Context(), tt.address, Options{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: err = %v, want %q in it", tt.address, err, tt.want)
		}
	}
}
