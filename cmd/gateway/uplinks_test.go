package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/board/clock"
	"gateway/config"
)

// A name in the common name counts when that is asked for, the certificate has no alternative names,
// and its authority is known.
func TestVerifyCommonName(t *testing.T) {
	dir := t.TempDir()
	ca, caKey := testCertificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true}, nil, nil)
	other, otherKey := testCertificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true}, nil, nil)
	caFile := filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	plain := &x509.Certificate{Subject: pkix.Name{CommonName: "cloud.example"}}
	named := &x509.Certificate{Subject: pkix.Name{CommonName: "cloud.example"}, DNSNames: []string{"else.example"}}
	expired := &x509.Certificate{Subject: pkix.Name{CommonName: "cloud.example"}, NotBefore: time.Unix(1, 0), NotAfter: time.Unix(2, 0)}
	for _, tt := range []struct {
		what    string
		cert    *x509.Certificate
		signer  *x509.Certificate
		key     *ecdsa.PrivateKey
		verify  string
		problem string
	}{
		{"the common name, asked for", plain, ca, caKey, "cn", ""},
		{"the common name, not asked for", plain, ca, caKey, "san", "relies on legacy Common Name"},
		{"another name", &x509.Certificate{Subject: pkix.Name{CommonName: "foe.example"}}, ca, caKey, "cn", `is for "foe.example"`},
		{"another authority", plain, other, otherKey, "cn", "x509"},
		{"alternative names count first", named, ca, caKey, "cn", "else.example"},
		{"expired", expired, ca, caKey, "cn", "expired"},
	} {
		leaf, key := testCertificate(t, tt.cert, tt.signer, tt.key)
		c, err := bridgeTLS(config.BridgeTLS{CA: caFile, ServerName: "cloud.example", VerifyName: tt.verify}, clock.New())
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			far, err := ln.Accept()
			if err != nil {
				return
			}
			tls.Server(far, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}}).Handshake()
			far.Close()
		}()
		near, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		err = tls.Client(near, c).Handshake()
		near.Close()
		ln.Close()
		<-done
		if (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
			t.Errorf("%s: %v, want %q", tt.what, err, tt.problem)
		}
	}
}

// testCertificate makes a certificate, signed by itself if there is no signer.
func testCertificate(t *testing.T, c, signer *x509.Certificate, signerKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	made := *c
	made.SerialNumber = big.NewInt(time.Now().UnixNano())
	if made.NotAfter.IsZero() {
		made.NotBefore, made.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	if signer == nil {
		signer, signerKey = &made, key
	}
	der, err := x509.CreateCertificate(rand.Reader, &made, signer, &key.PublicKey, signerKey)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c, key
}
