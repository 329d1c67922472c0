package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/packet"
)

// Pipes are a listener whose connections have no buffers: what the peer does not take stays with
// the broker.
type pipes struct {
	conns chan net.Conn
	end   chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.end:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.once.Do(func() { close(p.end) }); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// pipe connects by a pipe, with TLS if there is a configuration, without saying CONNECT.
func (s *site) pipe(v packet.Version, config *tls.Config) *wire {
	s.t.Helper()
	return s.pipeThrough(v, config, same, same)
}

// pipeThrough is pipe, with something on the client's side of the way and on the broker's.
func (s *site) pipeThrough(v packet.Version, config *tls.Config, there, here func(net.Conn) net.Conn) *wire {
	s.t.Helper()
	ln := &pipes{conns: make(chan net.Conn, 1), end: make(chan struct{})}
	client, server := net.Pipe()
	client, server = there(client), here(server)
	if config == nil {
		ln.conns <- server
	} else {
		ln.conns <- tls.Server(server, config)
		client = tls.Client(client, &tls.Config{InsecureSkipVerify: true})
	}
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(ln, broker.Listener{Name: "pipe", Auth: auth.Anonymous{}}) }()
	s.t.Cleanup(func() {
		_ = ln.Close()
		_ = client.Close()
		<-served
	})
	return &wire{t: s.t, nc: client, v: v, dec: packet.Decoder{Version: v}}
}

// selfSigned returns the TLS configuration of a server.
func selfSigned(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}
