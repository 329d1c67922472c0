package listen_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker/listen"
)

// signer returns the CA's certificate and key.
func (s *site) signer() (*x509.Certificate, crypto.Signer) {
	s.t.Helper()
	own := s.authority.Files()
	pair, err := tls.LoadX509KeyPair(own.Cert, own.Key)
	if err != nil {
		s.t.Fatal(err)
	}
	return pair.Leaf, pair.PrivateKey.(crypto.Signer)
}

// write puts a PEM file into its place at once.
func (s *site) write(name, kind string, der []byte) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	err := os.WriteFile(path+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return path
}

// revoke writes a list of the clients named, which is to be followed by another after a time.
func (s *site) revoke(life time.Duration, names ...string) string {
	s.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(life)}
	for _, name := range names {
		serial := s.client(name).Certificates[0].Leaf.SerialNumber
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: time.Now()})
	}
	issuer, key := s.signer()
	der, err := x509.CreateRevocationList(rand.Reader, list, issuer, key)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.write("ca.crl", "X509 CRL", der)
}

// issue signs a certificate that begins at a time, and writes it with its key.
func (s *site) issue(name string, begin time.Time) (cert, key string) {
	s.t.Helper()
	issuer, signer := s.signer()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: begin, NotAfter: begin.Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, own.Public(), signer)
	if err != nil {
		s.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.write(name+".crt", "CERTIFICATE", der), s.write(name+".key", "PRIVATE KEY", private)
}

// state returns what TLS has agreed on. With 1.3 the server has the last word: so does the echo.
func state(t *testing.T, nc net.Conn) tls.ConnectionState {
	t.Helper()
	exchange(t, nc, hello)
	return nc.(*listen.Conn).ConnectionState()
}

// refused tells whether the server does not let a client in.
func (e *echo) refused(config *tls.Config) bool {
	e.t.Helper()
	nc, err := e.dial("mqtts", config)
	return err != nil || exchanged(nc, hello) != nil
}

// TestALPN agrees on a protocol by name, or by nothing.
func TestALPN(t *testing.T) {
	s := newSite(t)
	e := serve(t, listen.Options{TLS: &s.files})
	for _, tt := range []struct {
		offered []string
		want    string
		refused bool
	}{
		{nil, "", false},
		{[]string{"mqtt"}, "mqtt", false},
		{[]string{"http/1.1"}, "http/1.1", false},
		{[]string{"h2", "mqtt"}, "mqtt", false},
		{[]string{"imap"}, "", true},
	} {
		config := s.client("thermometer")
		config.NextProtos = tt.offered
		nc, err := e.dial("mqtts", config)
		if (err != nil) != tt.refused {
			t.Errorf("%q: %v, want it refused = %t", tt.offered, err, tt.refused)
		}
		if err != nil {
			continue
		}
		if got := state(t, nc).NegotiatedProtocol; got != tt.want {
			t.Errorf("%q: agreed on %q, want %q", tt.offered, got, tt.want)
		}
	}
}

// TestTLSVersions takes 1.2 and 1.3, or 1.3 only.
func TestTLSVersions(t *testing.T) {
	s := newSite(t)
	for _, least := range []uint16{0, tls.VersionTLS12, tls.VersionTLS13} {
		s.files.MinVersion = least
		e := serve(t, listen.Options{TLS: &s.files})
		for v := uint16(tls.VersionTLS11); v <= tls.VersionTLS13; v++ {
			config := s.client("thermometer")
			config.MinVersion, config.MaxVersion = v, v
			if got, want := e.refused(config), v < max(least, tls.VersionTLS12); got != want {
				t.Errorf("%s from %s on: refused = %t, want %t", tls.VersionName(v), tls.VersionName(least), got, want)
			}
		}
	}
}

// TestClientCertificate asks for one, or insists.
func TestClientCertificate(t *testing.T) {
	s, others := newSite(t), newSite(t)
	stranger := others.client("stranger")
	stranger.RootCAs = s.client("").RootCAs
	for _, required := range []bool{false, true} {
		s.files.RequireCertificate = required
		e := serve(t, listen.Options{TLS: &s.files})
		if got := e.refused(s.client("")); got != required {
			t.Errorf("required = %t: a client without is refused = %t", required, got)
		}
		if !e.refused(stranger) {
			t.Errorf("required = %t: a certificate of another CA is taken", required)
		}
		if e.refused(s.client("thermometer")) {
			t.Errorf("required = %t: a good one is refused", required)
		}
	}
}

// TestNewCertificate replaces the server's certificate, the key a moment later. Nobody is
// disconnected.
func TestNewCertificate(t *testing.T) {
	s := newSite(t)
	s.files.Cert, s.files.Key = s.issue("gateway", time.Now().Add(-time.Hour))
	e := serve(t, listen.Options{TLS: &s.files})
	nc := e.connect("mqtts", s.client("thermometer"))
	before := state(t, nc).PeerCertificates[0].SerialNumber
	s.issue("gateway", time.Now().Add(-time.Hour))
	eventually(t, "new connections see the new certificate", func() bool {
		fresh := e.connect("mqtts", s.client("thermometer"))
		return state(t, fresh).PeerCertificates[0].SerialNumber.Cmp(before) != 0
	})
	exchange(t, nc, hello)
	if n := e.log.count("level=ERROR"); n != 0 {
		t.Errorf("%d errors in the log", n)
	}
}

// replace puts a file in place at one instant: in a test that counts what is told of each state,
// an empty file would be one more.
func replace(file string, data []byte) error {
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// TestBrokenFiles keeps what was good, and says once what is wrong.
func TestBrokenFiles(t *testing.T) {
	s := newSite(t)
	s.files.Cert, s.files.Key = s.issue("gateway", time.Now().Add(-time.Hour))
	s.files.CRL = s.revoke(time.Hour)
	e := serve(t, listen.Options{TLS: &s.files})
	nc := e.connect("mqtts", s.client("thermometer"))
	errors := 0
	for _, file := range []string{s.files.Cert, s.files.Key, s.files.CRL} {
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, broken := range []func() error{
			func() error { return replace(file, []byte("half a fi")) },
			func() error { return os.Remove(file) },
		} {
			if err := broken(); err != nil {
				t.Fatal(err)
			}
			errors++
			eventually(t, "the log tells of "+file, func() bool { return e.log.count("level=ERROR") == errors })
			exchange(t, e.connect("mqtts", s.client("thermometer")), hello)
		}
		if err := replace(file, good); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the log tells that the files are good", func() bool { return e.log.count("are in force") == errors/2 })
	}
	exchange(t, nc, hello)
	if n := e.log.count("level=ERROR"); n != errors {
		t.Errorf("%d errors in the log, want %d", n, errors)
	}
	if e.log.count(s.files.CRL) == 0 {
		t.Error("the log does not name the file")
	}
}

// TestUnreadableKey loads a key that could not be read when it came, once its permissions are mended.
func TestUnreadableKey(t *testing.T) {
	s := newSite(t)
	s.files.ReadKey = func(name string) ([]byte, error) { // as for somebody who is not root
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() == 0 {
			return nil, fs.ErrPermission
		}
		return os.ReadFile(name)
	}
	e := serve(t, listen.Options{TLS: &s.files})
	if err := errors.Join(os.Chmod(s.files.Key, 0), os.Chtimes(s.files.Key, time.Time{}, time.Now())); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log tells that it cannot be read", func() bool { return e.log.count("level=ERROR") > 0 })
	if err := os.Chmod(s.files.Key, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log tells that it is in force", func() bool { return e.log.count("are in force") > 0 })
	exchange(t, e.connect("mqtts", s.client("thermometer")), hello)
}

// TestRevoked ends the connection of a client whose certificate is revoked, lets it in no more,
// not with a session from before either, and leaves the others alone.
func TestRevoked(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			s := newSite(t)
			s.files.CRL = s.revoke(time.Hour)
			e := serve(t, listen.Options{TLS: &s.files, Protocols: listen.MQTT | listen.WebSocket})
			clients := make(map[string]*tls.Config)
			live := make(map[string]net.Conn)
			for _, name := range []string{"good", "stolen"} {
				c := s.client(name)
				c.MaxVersion, c.ClientSessionCache = version, tls.NewLRUClientSessionCache(8)
				clients[name] = c
				_ = state(t, e.connect("mqtts", c))
				if !state(t, e.connect("mqtts", c)).DidResume {
					t.Errorf("%s: the session was not resumed", name)
				}
				live[name] = e.connect("wss", s.client(name))
				exchange(t, live[name], hello)
			}
			s.revoke(time.Hour, "stolen")
			eventually(t, "the connection of the stolen certificate ends", func() bool { return exchanged(live["stolen"], hello) != nil })
			exchange(t, live["good"], hello)
			if !e.refused(clients["stolen"]) || !e.refused(s.client("stolen")) {
				t.Error("the stolen certificate is let in")
			}
			if state(t, e.connect("mqtts", clients["good"])).DidResume {
				t.Error("a session from before the list was resumed")
			}
			if e.log.count("certificate=stolen") == 0 {
				t.Error("the log does not name the certificate")
			}
		})
	}
}

// TestRevokedMeanwhile revokes a certificate while its handshake goes on.
func TestRevokedMeanwhile(t *testing.T) {
	s := newSite(t)
	s.files.CRL = s.revoke(time.Hour)
	e := serve(t, listen.Options{TLS: &s.files})
	config := s.client("stolen")
	config.ServerName = "localhost"
	nc, err := net.Dial("tcp", e.address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	exchange(t, e.connect("mqtts", s.client("good")), hello) // the one before has been accepted
	s.revoke(time.Hour, "stolen")
	eventually(t, "the list is in force", func() bool { return e.log.count("are in force") == 1 })
	if err := exchanged(tls.Client(nc, config), hello); err == nil {
		t.Error("the stolen certificate is let in")
	}
}

// TestOtherCA ends the connections of clients whose CA is not trusted any more.
func TestOtherCA(t *testing.T) {
	s, others := newSite(t), newSite(t)
	pem, err := os.ReadFile(s.files.ClientCA)
	if err != nil {
		t.Fatal(err)
	}
	s.files.ClientCA = filepath.Join(s.dir, "clients.crt")
	if err := os.WriteFile(s.files.ClientCA, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	e := serve(t, listen.Options{TLS: &s.files})
	nc := e.connect("mqtts", s.client("thermometer"))
	exchange(t, nc, hello)
	if err := os.Rename(others.authority.Files().Cert, s.files.ClientCA); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection ends", func() bool { return exchanged(nc, hello) != nil })
	if !e.refused(s.client("thermometer")) {
		t.Error("a certificate of the CA of before is let in")
	}
}

// TestOldList enforces a list that is past its time, and warns.
func TestOldList(t *testing.T) {
	s := newSite(t)
	s.files.CRL = s.revoke(-time.Minute, "stolen")
	e := serve(t, listen.Options{TLS: &s.files})
	if e.log.count("is past its time") != 1 {
		t.Error("no warning")
	}
	if !e.refused(s.client("stolen")) || e.refused(s.client("good")) {
		t.Error("the list is not in force")
	}
}

// TestUnusable refuses to open with files that are of no use.
func TestUnusable(t *testing.T) {
	s, others := newSite(t), newSite(t)
	text := filepath.Join(s.dir, "text")
	if err := os.WriteFile(text, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, want string
		change     func(*listen.Files)
	}{
		{"no certificate", "no such file", func(f *listen.Files) { f.Cert = text + "-missing" }},
		{"another's key", "private key", func(f *listen.Files) { f.Key = others.files.Key }},
		{"no CA", "no certificate in PEM form", func(f *listen.Files) { f.ClientCA = text }},
		{"no list", "no PEM block X509 CRL", func(f *listen.Files) { f.CRL = text }},
		{"another CA's list", "signed by none of the client CAs", func(f *listen.Files) { f.CRL = others.revoke(time.Hour) }},
	} {
		f := s.files
		tt.change(&f)
		ln, err := listen.Open(t.Context(), listen.Options{Address: "127.0.0.1:0", TLS: &f})
		if err == nil {
			_ = ln.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestClockOfThePast lets clients in although the clock has not been set: the gateway's own
// certificate tells that it is later.
func TestClockOfThePast(t *testing.T) {
	s := newSite(t)
	tomorrow := time.Now().Add(24 * time.Hour)
	s.files.Cert, s.files.Key = s.issue("gateway", tomorrow)
	s.issue("thermometer", tomorrow.Add(-time.Hour))
	e := serve(t, listen.Options{TLS: &s.files})
	config := s.client("thermometer")
	config.Time = func() time.Time { return tomorrow.Add(time.Minute) }
	if e.refused(config) {
		t.Error("refused")
	}
}

// TestStop ends the watch with the listener.
func TestStop(t *testing.T) {
	s := newSite(t)
	ln, err := listen.Open(t.Context(), listen.Options{Address: "127.0.0.1:0", TLS: &s.files})
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	if _, err := ln.Accept(); err == nil {
		t.Error("Accept after Close")
	}
}
