package config

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/internal/ca"
)

// files is a folder with an authority, a server and a client, and a configuration of them.
func files(t *testing.T) (dir, src string) {
	t.Helper()
	dir = t.TempDir()
	a, err := ca.Init(dir, "Test CA", ca.AuthorityLife)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Server([]string{"localhost"}, ca.LeafLife); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Client("gh1", ca.LeafLife); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "password"), "s3cret\n", 0o600)
	revocations(t, dir, time.Now().AddDate(10, 0, 0))
	return dir, `listeners:
  - {name: a, address: ":8883", tls: {cert: localhost.crt, key: localhost.key, client_ca: ca.crt, crl: ca.crl, require_certificate: true}}
bridges:
  - name: cloud
    url: mqtts://localhost
    username: u
    password: {file: password}
    tls: {ca: ca.crt, cert: gh1.crt, key: gh1.key}
    rules: [{direction: out, filter: a}]
`
}

// revocations writes the CA's list of revoked certificates, which has none.
func revocations(t *testing.T, dir string, due time.Time) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: due.AddDate(-20, 0, 0), NextUpdate: due}
	der, err := x509.CreateRevocationList(rand.Reader, list, pair.Leaf, pair.PrivateKey.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "ca.crl"), string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})), 0o644)
}

func write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

func TestPasswordInAFileForEveryone(t *testing.T) {
	name := filepath.Join(t.TempDir(), "gateway.yaml")
	write(t, name, "bridges: [{name: a, url: mqtts://localhost, username: u, password: s3cret, rules: [{direction: out, filter: a}]}]\n", 0o644)
	c, err := Load(name)
	if err != nil {
		t.Fatal(err)
	}
	want := name + ":1: bridges[0].password: " + name + " can be read by everyone on this machine; run: chmod 640 " + name
	if got := c.CheckFiles(time.Now()).Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	write(t, name, "", 0o640)
	if got := c.CheckFiles(time.Now()); len(got) > 0 {
		t.Errorf("a file for its group: %v", got)
	}
}

// nameless writes a server's certificate that has only a common name, as old recipes make it.
func nameless(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "localhost"}, NotAfter: time.Now().AddDate(1, 0, 0)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "localhost.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})), 0o644)
	write(t, filepath.Join(dir, "localhost.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), 0o600)
}

func TestCheckFiles(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		years int      // that have passed
		want  []string // the beginnings of the problems, after the file's name
	}{
		{name: "all is well"},
		{
			name:  "password missing",
			spoil: func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "password")) },
			want:  []string{":7: bridges[0].password: stat DIR/password: no such file or directory; put the file there, or correct the path"},
		},
		{
			name: "password and key for everyone",
			spoil: func(t *testing.T, dir string) {
				os.Chmod(filepath.Join(dir, "password"), 0o644)
				os.Chmod(filepath.Join(dir, "localhost.key"), 0o604)
			},
			want: []string{
				":2: listeners[0].tls.key: DIR/localhost.key can be read by everyone on this machine; run: chmod 640 DIR/localhost.key",
				":7: bridges[0].password: DIR/password can be read by everyone on this machine; run: chmod 640 DIR/password",
			},
		},
		{
			name:  "key of another",
			spoil: func(t *testing.T, dir string) { os.Rename(filepath.Join(dir, "ca.key"), filepath.Join(dir, "gh1.key")) },
			want:  []string{":8: bridges[0].tls: DIR/gh1.crt and DIR/gh1.key: tls: private key does not match public key; give a PEM certificate"},
		},
		{
			name:  "no PEM",
			spoil: func(t *testing.T, dir string) { write(t, filepath.Join(dir, "ca.crt"), "hello", 0o644) },
			want:  []string{":2: listeners[0].tls.client_ca: DIR/ca.crt holds no PEM certificate", ":8: bridges[0].tls.ca: DIR/ca.crt holds no PEM certificate"},
		},
		{
			name:  "no list",
			spoil: func(t *testing.T, dir string) { write(t, filepath.Join(dir, "ca.crl"), "hello", 0o644) },
			want:  []string{":2: listeners[0].tls.crl: DIR/ca.crl holds no PEM block X509 CRL"},
		},
		{
			name:  "list missing",
			spoil: func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "ca.crl")) },
			want:  []string{":2: listeners[0].tls.crl: open DIR/ca.crl: no such file or directory; put the file there"},
		},
		{
			name:  "old list",
			spoil: func(t *testing.T, dir string) { revocations(t, dir, time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)) },
			want:  []string{":2: listeners[0].tls.crl: DIR/ca.crl: a newer list was due on 2026-01-02; until it is there, this one stays in force"},
		},
		{
			name: "server for client",
			spoil: func(t *testing.T, dir string) {
				os.Rename(filepath.Join(dir, "localhost.key"), filepath.Join(dir, "gh1.key"))
				os.Rename(filepath.Join(dir, "localhost.crt"), filepath.Join(dir, "gh1.crt"))
			},
			want: []string{
				":2: listeners[0].tls.cert: open DIR/localhost.crt: no such file",
				":2: listeners[0].tls.key: open DIR/localhost.key: no such file",
				":8: bridges[0].tls.cert: DIR/gh1.crt is not for a client; make another with: gateway ca client NAME",
			},
		},
		{
			name:  "common name only",
			spoil: nameless,
			want:  []string{":2: listeners[0].tls.cert: DIR/localhost.crt has no subject alternative name, clients refuse it"},
		},
		{
			name:  "expired",
			years: 3,
			want:  []string{":2: listeners[0].tls.cert: DIR/localhost.crt expired on 20", ":8: bridges[0].tls.cert: DIR/gh1.crt expired on 20"},
		},
		{
			name:  "before the clock is set",
			years: -56,
			want: []string{
				":2: listeners[0].tls.cert: DIR/localhost.crt is not in force before 20",
				":2: listeners[0].tls.client_ca: DIR/ca.crt is not in force before 20",
				":8: bridges[0].tls.cert: DIR/gh1.crt is not in force before 20",
				":8: bridges[0].tls.ca: DIR/ca.crt is not in force before 20",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, src := files(t)
			name := filepath.Join(dir, "gateway.yaml")
			write(t, name, src, 0o600)
			c, err := Load(name)
			if err != nil {
				t.Fatal(err)
			}
			if tt.spoil != nil {
				tt.spoil(t, dir)
			}
			got := c.CheckFiles(time.Now().AddDate(tt.years, 0, 0))
			if len(got) != len(tt.want) {
				t.Fatalf("got %d problems, want %d:\n%v", len(got), len(tt.want), got)
			}
			for i, want := range tt.want {
				want = name + strings.ReplaceAll(want, "DIR", dir)
				if !strings.HasPrefix(got[i].String(), want) {
					t.Errorf("got\n%s\nwant\n%s", got[i], want)
				}
			}
			if tt.years != 0 { // when nobody knows the time, no date is wrong
				if got := c.CheckFiles(time.Time{}); len(got) > 0 {
					t.Errorf("without the time of day: %v", got)
				}
			}
		})
	}
}
