package broker_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/packet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A site is a running broker on a loopback port.
type site struct {
	t       *testing.T
	server  *broker.Server
	store   *memory
	address string
}

// start runs a broker over a store; nil makes a new store.
func start(t *testing.T, store *memory, limits broker.Limits) *site {
	t.Helper()
	return startWith(t, store, broker.Options{Limits: limits})
}

// startWith is start with more options; store and log are filled in.
func startWith(t *testing.T, store *memory, o broker.Options) *site {
	t.Helper()
	if store == nil {
		store = newMemory()
		t.Cleanup(store.close)
	}
	o.Store, o.Version = store, "test"
	o.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	server, err := broker.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln, broker.Listener{Name: "test", Auth: auth.Anonymous{}}) }()
	s := &site{t: t, server: server, store: store, address: ln.Addr().String()}
	t.Cleanup(func() {
		s.stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

// stop ends the broker; its store stays.
func (s *site) stop() {
	if err := s.server.Close(); err != nil {
		s.t.Error(err)
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// A wire is a client that sends and expects single packets.
type wire struct {
	t   *testing.T
	nc  net.Conn
	v   packet.Version
	dec packet.Decoder
	buf []byte

	connack packet.Connack // the last that came
}

type encoder interface {
	Append(dst []byte, v packet.Version) []byte
}

// dial connects without saying CONNECT.
func (s *site) dial(v packet.Version) *wire {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = nc.Close() })
	return &wire{t: s.t, nc: nc, v: v, dec: packet.Decoder{Version: v}}
}

// connect says CONNECT and expects to be let in.
func (s *site) connect(v packet.Version, c packet.Connect) *wire {
	s.t.Helper()
	w := s.dial(v)
	w.send(&c)
	if got := w.read(); !strings.HasPrefix(got, "CONNACK Success") {
		s.t.Fatalf("CONNECT %s: %s", c.ClientID, got)
	}
	return w
}

// again connects a client whose session is there.
func (s *site) again(v packet.Version, c packet.Connect) *wire {
	s.t.Helper()
	w := s.dial(v)
	w.send(&c)
	w.expect("CONNACK Success present")
	return w
}

// clean is a CONNECT for a session that ends with the connection, kept one that does not.
func clean(id string) packet.Connect { return packet.Connect{ClientID: id, CleanStart: true} }

func kept(id string) packet.Connect {
	return packet.Connect{ClientID: id, Properties: packet.ConnectProperties{SessionExpiry: 3600, HasSessionExpiry: true}}
}

func (w *wire) send(packets ...encoder) {
	w.t.Helper()
	var b []byte
	for _, p := range packets {
		b = p.Append(b, w.v)
	}
	w.raw(b)
}

func (w *wire) raw(b []byte) {
	w.t.Helper()
	if _, err := w.nc.Write(b); err != nil {
		w.t.Fatal(err)
	}
}

// hex sends bytes written as "10 0c 00 04".
func (w *wire) hex(s string) {
	w.t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		w.t.Fatal(err)
	}
	w.raw(b)
}

// read returns the next packet as a line of text, or "closed", or "nothing".
func (w *wire) read() string {
	w.t.Helper()
	return w.readWithin(5 * time.Second)
}

func (w *wire) readWithin(d time.Duration) string {
	w.t.Helper()
	_ = w.nc.SetReadDeadline(time.Now().Add(d))
	for {
		h, n, err := packet.ParseHeader(w.buf)
		if err != nil {
			w.t.Fatal(err)
		}
		if n > 0 && len(w.buf) >= n+h.Length {
			body := w.buf[n : n+h.Length]
			w.buf = w.buf[n+h.Length:]
			return w.describe(h, body)
		}
		b := make([]byte, 4096)
		k, err := w.nc.Read(b)
		w.buf = append(w.buf, b[:k]...)
		switch {
		case k > 0:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return "nothing"
		case errors.Is(err, io.EOF), err != nil:
			return "closed"
		}
	}
}

func (w *wire) describe(h packet.Header, body []byte) string {
	w.t.Helper()
	var err error
	var s string
	switch h.Type {
	case packet.CONNACK:
		var a packet.Connack
		a, err = w.dec.Connack(body)
		w.connack = a
		s = fmt.Sprintf("CONNACK %s", a.Reason)
		if a.SessionPresent {
			s += " present"
		}
		if a.Properties != nil && a.Properties.ServerReference != "" {
			s += " " + a.Properties.ServerReference
		}
	case packet.PUBLISH:
		var p packet.Publish
		p, err = w.dec.Publish(h.Flags, body)
		s = fmt.Sprintf("PUBLISH %s=%s q%d", p.Topic, p.Payload, p.QoS)
		if p.ID != 0 {
			s += fmt.Sprintf(" id%d", p.ID)
		}
		if p.Dup {
			s += " dup"
		}
		if p.Retain {
			s += " retain"
		}
		if p.Properties != nil {
			if p.Properties.HasMessageExpiry {
				s += fmt.Sprintf(" expiry%d", p.Properties.MessageExpiry)
			}
			if p.Properties.TopicAlias > 0 {
				s += fmt.Sprintf(" alias%d", p.Properties.TopicAlias)
			}
			if len(p.Properties.SubscriptionIDs) > 0 {
				s += fmt.Sprintf(" sub%v", p.Properties.SubscriptionIDs)
			}
			if p.Properties.ResponseTopic != "" {
				s += " response:" + p.Properties.ResponseTopic
			}
			for _, u := range p.Properties.User {
				s += fmt.Sprintf(" %s:%s", u.Name, u.Value)
			}
		}
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		var a packet.Ack
		a, err = w.dec.Ack(h.Type, body)
		s = fmt.Sprintf("%s %d", h.Type, a.ID)
		if a.Reason != 0 {
			s += " " + a.Reason.String()
		}
	case packet.SUBACK, packet.UNSUBACK:
		var a packet.Suback
		a, err = w.dec.Suback(h.Type, body)
		s = fmt.Sprintf("%s %d %v", h.Type, a.ID, a.Reasons)
	case packet.DISCONNECT:
		var d packet.Disconnect
		d, err = w.dec.Disconnect(body)
		s = fmt.Sprintf("DISCONNECT %s", d.Reason)
	case packet.AUTH:
		var a packet.Auth
		a, err = w.dec.Auth(body)
		s = fmt.Sprintf("AUTH %s %s %s", a.Reason, a.Method, a.Data)
	default:
		s = h.Type.String()
	}
	if err != nil {
		w.t.Fatalf("%s: %v", h.Type, err)
	}
	return s
}

// expect reads packets and compares them with lines as read returns them. A line that ends with
// "…" is compared up to there.
func (w *wire) expect(lines ...string) {
	w.t.Helper()
	for _, want := range lines {
		got := w.read()
		if prefix, ok := strings.CutSuffix(want, "…"); ok && strings.HasPrefix(got, prefix) {
			continue
		}
		if got != want {
			w.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// silent fails if a packet comes before the answer to a PINGREQ.
func (w *wire) silent() {
	w.t.Helper()
	w.send(&packet.Ping{Type: packet.PINGREQ})
	w.expect("PINGRESP")
}

func publish(topic, payload string, qos packet.QoS, id uint16) *packet.Publish {
	return &packet.Publish{Topic: topic, Payload: []byte(payload), QoS: qos, ID: id}
}

func subscribe(id uint16, filters ...packet.Subscription) *packet.Subscribe {
	return &packet.Subscribe{ID: id, Filters: filters}
}

func filter(f string, qos packet.QoS) packet.Subscription {
	return packet.Subscription{Filter: f, QoS: qos}
}

func ack(t packet.Type, id uint16) *packet.Ack { return &packet.Ack{Type: t, ID: id} }
