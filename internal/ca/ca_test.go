package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// site is an authority with the certificate of a server and of a client.
func site(t *testing.T) (a *Authority, server, client Files) {
	t.Helper()
	a, err := Init(filepath.Join(t.TempDir(), "ca"), "Test CA", AuthorityLife)
	if err != nil {
		t.Fatal(err)
	}
	if server, err = a.Server([]string{"localhost", "127.0.0.1", "::1"}, LeafLife); err != nil {
		t.Fatal(err)
	}
	if client, err = a.Client("thermometer-3", LeafLife); err != nil {
		t.Fatal(err)
	}
	return a, server, client
}

func load(t *testing.T, f Files) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

func TestProfile(t *testing.T) {
	a, serverFiles, clientFiles := site(t)
	authority, server, client := load(t, a.Files()), load(t, serverFiles), load(t, clientFiles)
	for _, tt := range []struct {
		clause string
		what   string
		ok     bool
	}{
		{"RFC 5280 4.2.1.9", "the authority is one, and signs no others", authority.IsCA && authority.BasicConstraintsValid && authority.MaxPathLenZero},
		{"RFC 5280 4.2.1.9", "the server is no authority", !server.IsCA && server.BasicConstraintsValid},
		{"RFC 5280 4.2.1.3", "the authority's key signs certificates only", authority.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign},
		{"RFC 5480 3", "an ECDSA key signs and does not encipher", server.KeyUsage == x509.KeyUsageDigitalSignature && client.KeyUsage == x509.KeyUsageDigitalSignature},
		{"RFC 5280 4.2.1.12", "the server is only a server", slices.Equal(server.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth})},
		{"RFC 5280 4.2.1.12", "the client is only a client", slices.Equal(client.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})},
		{"RFC 5280 4.2.1.2", "all have key identifiers", len(authority.SubjectKeyId) == 20 && len(server.SubjectKeyId) == 20 && len(client.SubjectKeyId) == 20},
		{"RFC 5280 4.2.1.1", "they lead to the authority", slices.Equal(server.AuthorityKeyId, authority.SubjectKeyId)},
		{"RFC 5280 4.2.1.6", "names and addresses", slices.Equal(server.DNSNames, []string{"localhost"}) && len(server.IPAddresses) == 2},
		{"RFC 5280 4.1.2.2", "serial numbers differ and are positive", server.SerialNumber.Cmp(client.SerialNumber) != 0 && server.SerialNumber.Sign() > 0},
		{"", "common names", server.Subject.CommonName == "localhost" && client.Subject.CommonName == "thermometer-3"},
		{"", "in force since yesterday", time.Since(client.NotBefore) >= 23*time.Hour},
	} {
		if !tt.ok {
			t.Errorf("[%s] not so: %s", tt.clause, tt.what)
		}
	}
	if key, ok := server.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		t.Error("the key is not on P-256")
	}
}

func TestMutualTLS(t *testing.T) {
	a, server, client := site(t)
	roots := x509.NewCertPool()
	roots.AddCert(load(t, a.Files()))
	serverPair, err := tls.LoadX509KeyPair(server.Cert, server.Key)
	if err != nil {
		t.Fatal(err)
	}
	clientPair, err := tls.LoadX509KeyPair(client.Cert, client.Key)
	if err != nil {
		t.Fatal(err)
	}
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	s := tls.Server(there, &tls.Config{Certificates: []tls.Certificate{serverPair}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert})
	c := tls.Client(here, &tls.Config{Certificates: []tls.Certificate{clientPair}, RootCAs: roots, ServerName: "127.0.0.1"})
	done := make(chan error, 1)
	go func() { done <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := s.ConnectionState().PeerCertificates[0].Subject.CommonName; got != "thermometer-3" {
		t.Errorf("the server sees %q", got)
	}
}

func TestFilesAreSafe(t *testing.T) {
	a, _, client := site(t)
	dir := filepath.Dir(client.Key)
	for name, want := range map[string]fs.FileMode{dir: 0o700, client.Key: 0o600, a.Files().Key: 0o600, client.Cert: 0o644} {
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", name, st.Mode().Perm(), want)
		}
	}
	before, err := os.ReadFile(client.Key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Client("thermometer-3", LeafLife); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the same client again: %v", err)
	}
	if _, err := Init(dir, "Other CA", AuthorityLife); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the same authority again: %v", err)
	}
	if after, err := os.ReadFile(client.Key); err != nil || string(after) != string(before) {
		t.Error("the key was overwritten")
	}
	if err := os.Remove(client.Key); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Client("thermometer-3", LeafLife); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the certificate alone is left: %v", err)
	}
	if _, err := os.Stat(client.Key); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a key was written beside a certificate that is not its own")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("%s is left over", e.Name())
		}
	}
}

func TestNames(t *testing.T) {
	a, _, _ := site(t)
	for _, name := range []string{"", "..", ".hidden", "-flag", "a/b", `a\b`, "a+b", "#", "a\nb", "a\x00b", "\u202eevil", "\xff", strings.Repeat("x", 65)} {
		if _, err := a.Client(name, LeafLife); err == nil {
			t.Errorf("client %q was accepted", name)
		}
	}
	for _, name := range []string{"", "a b", "-a.example", "a..b", "*.example", "a_b", "ä.example", strings.Repeat("x", 64) + ".example", strings.Repeat("a.", 130) + "a"} {
		if _, err := a.Server([]string{"good.example", name}, LeafLife); err == nil {
			t.Errorf("server %q was accepted", name)
		}
	}
	if f, err := a.Server([]string{"fe80::1"}, LeafLife); err != nil || filepath.Base(f.Key) != "fe80--1.key" {
		t.Errorf("an address as the only name: %v, %v", f.Key, err)
	}
	if f, err := a.Client("Gewächshaus 2", LeafLife); err != nil || load(t, f).Subject.CommonName != "Gewächshaus 2" {
		t.Errorf("a name in another script: %v", err)
	}
}

func TestClocks(t *testing.T) {
	dir := t.TempDir()
	past := func() time.Time { return time.Unix(60, 0) }
	if _, err := initAt(dir, "Test CA", AuthorityLife, past); err == nil || !strings.Contains(err.Error(), "1970-01-01; set it first") {
		t.Errorf("an authority from 1970: %v", err)
	}
	a, err := Init(dir, "Test CA", 30*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	f, err := a.Client("c", LeafLife)
	if err != nil {
		t.Fatal(err)
	}
	if client := load(t, f); client.NotAfter.After(a.cert.NotAfter) || client.NotBefore.Before(a.cert.NotBefore) {
		t.Error("the client outlives its authority")
	}
	a.now = func() time.Time { return time.Now().AddDate(1, 0, 0) }
	if _, err := a.Client("d", LeafLife); err == nil || !strings.Contains(err.Error(), "the authority expired on") {
		t.Errorf("signed by an expired authority: %v", err)
	}
}

func TestOpen(t *testing.T) {
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "make one with: gateway ca init") {
		t.Errorf("no authority: %v", err)
	}
	a, server, _ := site(t)
	if err := os.Chmod(a.Files().Key, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(a.dir); err == nil || !strings.Contains(err.Error(), "chmod 600 "+a.Files().Key) {
		t.Errorf("others may read the key: %v", err)
	}
	other := t.TempDir()
	for from, to := range map[string]string{server.Cert: "ca.crt", server.Key: "ca.key"} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(other, to), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(other); err == nil || !strings.Contains(err.Error(), "is not the certificate of one") {
		t.Errorf("a server's certificate as authority: %v", err)
	}
}
