package broker_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/packet"
)

// TestVersions lets in the versions of MQTT that a listener speaks, and says so to the others
// [MQTT-3.1.2-2].
func TestVersions(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	all := []packet.Version{packet.V31, packet.V311, packet.V5}
	for _, only := range all {
		l := s.listen(broker.Listener{Name: "some", Versions: []packet.Version{only}})
		for _, v := range all {
			w := l.dial(v)
			c := clean("device")
			c.Version = v
			w.send(&c)
			if v == only {
				w.expect("CONNACK Success")
			} else {
				w.expect("CONNACK Unsupported Protocol Version", "closed")
			}
		}
	}
}

// TestBounds holds the clients of one listener to its own limits.
func TestBounds(t *testing.T) {
	s := start(t, nil, broker.Limits{PacketSize: 1000})
	l := s.listen(broker.Listener{Name: "small", Bounds: broker.Bounds{
		Connections: 2, PacketSize: 100, ConnectTime: 50 * time.Millisecond, KeepAlive: 7 * time.Second,
	}})
	l.dial(packet.V5).expect("closed") // no CONNECT in time

	w := l.dial(packet.V5)
	c := clean("device")
	w.send(&c)
	w.expect("CONNACK Success")
	if p := w.connack.Properties; p.MaximumPacketSize != 100 || p.ServerKeepAlive != 7 {
		t.Errorf("CONNACK tells of packets up to %d bytes and a keep alive of %d s, want 100 and 7", p.MaximumPacketSize, p.ServerKeepAlive)
	}
	var second *wire
	eventually(t, "the place of the one without CONNECT is free", func() bool {
		second = l.dial(packet.V5)
		c := clean("second")
		_, _ = second.nc.Write(c.Append(nil, packet.V5))
		return second.read() == "CONNACK Success"
	})
	l.dial(packet.V5).expect("closed")
	elsewhere := s.connect(packet.V5, clean("elsewhere"))
	elsewhere.send(publish("a", string(make([]byte, 500)), 0, 0))
	elsewhere.silent()
	second.send(publish("a", string(make([]byte, 500)), 0, 0))
	second.expect("DISCONNECT Packet too large", "closed")
	eventually(t, "the place is free", func() bool {
		w := l.dial(packet.V5)
		c := clean("third")
		_, _ = w.nc.Write(c.Append(nil, packet.V5))
		return w.read() == "CONNACK Success"
	})
}

// TestBoundsOfMessages holds the clients of one listener to its own rates and windows.
func TestBoundsOfMessages(t *testing.T) {
	s := start(t, nil, broker.Limits{MessageRate: 100_000})
	l := s.listen(broker.Listener{Name: "small", Bounds: broker.Bounds{MessageRate: 5, ByteRate: 1 << 20, ReceiveMaximum: 2, Inflight: 1}})
	w := l.connect(packet.V5, clean("here"))
	if got := w.connack.Properties.ReceiveMaximum; got != 2 {
		t.Errorf("CONNACK tells of a receive maximum of %d, want 2", got)
	}
	w.send(subscribe(1, filter("t", 1)))
	w.expect("SUBACK…")
	other := s.connect(packet.V5, clean("elsewhere"))
	for i := range uint16(10) {
		other.send(publish("t", "x", 1, i+1))
		other.expect("PUBACK…")
	}
	if n := s.server.Stats().Slowed.Load(); n != 0 {
		t.Errorf("a client of another listener was slowed down %d times", n)
	}
	w.expect("PUBLISH t=x q1 id1")
	w.silent() // the second waits for the first
	for i := range uint16(3) {
		w.send(publish("u", "x", 2, i+1))
	}
	w.expect("PUBREC 1…", "PUBREC 2…", "DISCONNECT Receive Maximum exceeded")

	fast := l.connect(packet.V5, clean("fast"))
	for range 6 {
		fast.send(publish("u", "x", 0, 0))
	}
	fast.silent()
	if s.server.Stats().Slowed.Load() == 0 {
		t.Error("it is not slowed down")
	}
}

// A latecomer is a listener that hands out a connection at the moment when it is closed.
type latecomer struct {
	waiting, closed chan struct{}
	nc              net.Conn
}

func (l *latecomer) Accept() (net.Conn, error) {
	if l.nc == nil {
		return nil, net.ErrClosed
	}
	close(l.waiting)
	<-l.closed
	nc := l.nc
	l.nc = nil
	return nc, nil
}

func (l *latecomer) Close() error { close(l.closed); return nil }

func (l *latecomer) Addr() net.Addr { return &net.UnixAddr{Name: "late", Net: "unix"} }

// TestLateConnection closes a connection that is accepted while the broker stops: its client would
// wait for CONNACK otherwise, as long as the process lives.
func TestLateConnection(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	client, server := net.Pipe()
	ln := &latecomer{waiting: make(chan struct{}), closed: make(chan struct{}), nc: server}
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(ln, broker.Listener{Name: "late", Auth: auth.Anonymous{}}) }()
	<-ln.waiting
	s.stop()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection: %v, want its end", err)
	}
}
