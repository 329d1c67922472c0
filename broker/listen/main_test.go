package listen_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gateway/broker/listen"
	"gateway/internal/ca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An echo is a server that sends back what it reads.
type echo struct {
	*listen.Listener
	t       testing.TB
	address string
	log     *record
	ended   chan error // why connections ended; those that nobody asks for are dropped
}

// handshakeTime is what the server gives its clients.
const handshakeTime = 2 * time.Second

func serve(t testing.TB, o listen.Options) *echo {
	t.Helper()
	e := &echo{t: t, log: &record{}, ended: make(chan error, 100)}
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	o.Name, o.Log = "test", slog.New(slog.NewTextHandler(e.log, nil))
	ln, err := listen.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	e.Listener, e.address = ln, ln.Addr().String()
	var work sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	work.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[nc] = true
			mu.Unlock()
			work.Go(func() {
				err := reflect(nc)
				_ = nc.Close()
				mu.Lock()
				delete(open, nc)
				mu.Unlock()
				select {
				case e.ended <- err:
				default:
				}
			})
		}
	})
	t.Cleanup(func() {
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Close: %v", err)
		}
		mu.Lock()
		for nc := range open {
			_ = nc.Close()
		}
		mu.Unlock()
		work.Wait()
	})
	return e
}

// reflect serves one connection as the broker does: the handshake first, with a limit.
func reflect(nc net.Conn) error {
	_ = nc.SetDeadline(time.Now().Add(handshakeTime))
	if c, ok := nc.(*listen.Conn); ok {
		if err := c.HandshakeContext(context.Background()); err != nil {
			return err
		}
	}
	_ = nc.SetDeadline(time.Time{})
	b := make([]byte, 1<<16)
	for {
		n, err := nc.Read(b)
		if err != nil {
			return err
		}
		_ = nc.SetWriteDeadline(time.Now().Add(5 * time.Second))
		if _, err := nc.Write(b[:n]); err != nil {
			return err
		}
	}
}

// why returns why the next connection ended.
func (e *echo) why() error {
	e.t.Helper()
	select {
	case err := <-e.ended:
		return err
	case <-time.After(5 * time.Second):
		e.t.Fatal("the connection did not end")
		return nil
	}
}

// dial opens a connection with a URL scheme.
func (e *echo) dial(scheme string, config *tls.Config) (net.Conn, error) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), 5*time.Second)
	defer cancel()
	nc, err := listen.Dial(ctx, scheme+"://"+e.address, config)
	if err == nil {
		e.t.Cleanup(func() { _ = nc.Close() })
	}
	return nc, err
}

// connect is dial that must succeed.
func (e *echo) connect(scheme string, config *tls.Config) net.Conn {
	e.t.Helper()
	nc, err := e.dial(scheme, config)
	if err != nil {
		e.t.Fatalf("%s: %v", scheme, err)
	}
	return nc
}

// exchange sends bytes and expects them back.
func exchange(t *testing.T, nc net.Conn, b []byte) {
	t.Helper()
	if err := exchanged(nc, b); err != nil {
		t.Fatal(err)
	}
}

func exchanged(nc net.Conn, b []byte) error {
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := nc.Write(b); err != nil {
		return err
	}
	got := make([]byte, len(b))
	if _, err := io.ReadFull(nc, got); err != nil {
		return err
	}
	if !bytes.Equal(got, b) {
		return errors.New("other bytes came back")
	}
	return nil
}

// hello begins as an MQTT client does.
var hello = []byte{0x10, 0x0c, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 0}

// A record is a log that can be searched.
type record struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(b)
}

// count returns how many lines have the words.
func (r *record) count(words string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.buf.String(), words)
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// A site has the certificates of one test.
type site struct {
	t         testing.TB
	authority *ca.Authority
	dir       string
	files     listen.Files // of the server
}

// every is how often the tests' listeners look at their files.
const every = 20 * time.Millisecond

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	var err error
	if s.authority, err = ca.Init(s.dir, "test CA", ca.AuthorityLife); err != nil {
		t.Fatal(err)
	}
	server, err := s.authority.Server([]string{"localhost", "127.0.0.1"}, ca.LeafLife)
	if err != nil {
		t.Fatal(err)
	}
	s.files = listen.Files{
		Cert: server.Cert, Key: server.Key, ClientCA: s.authority.Files().Cert, RequireCertificate: true, Every: every,
	}
	return s
}

// client returns the settings of a client with a certificate, "" for one without.
func (s *site) client(name string) *tls.Config {
	s.t.Helper()
	pem, err := os.ReadFile(s.authority.Files().Cert)
	if err != nil {
		s.t.Fatal(err)
	}
	c := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	c.RootCAs.AppendCertsFromPEM(pem)
	if name == "" {
		return c
	}
	files := ca.Files{Cert: filepath.Join(s.dir, name+".crt"), Key: filepath.Join(s.dir, name+".key")}
	if _, err := os.Stat(files.Cert); err != nil {
		if files, err = s.authority.Client(name, ca.LeafLife); err != nil {
			s.t.Fatal(err)
		}
	}
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		s.t.Fatal(err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c
}
