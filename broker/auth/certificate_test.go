package auth_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"

	"gateway/broker/auth"
)

func TestCertificate(t *testing.T) {
	for _, tt := range []struct {
		name      string // common name of the certificate
		ok        bool   // Certificate lets it in
		anonymous string // the user for Anonymous
	}{
		{"dev-1", true, "dev-1"},
		{"Gewächshaus 3", true, "Gewächshaus 3"},
		{"", false, ""},
		{"dev/+", false, ""},
		{"#", false, ""},
		{"a\x00b", false, ""},
	} {
		a := auth.Attempt{Certificate: &x509.Certificate{Subject: pkix.Name{CommonName: tt.name}}}
		id, err := auth.Certificate{}.Authenticate(t.Context(), a)
		if (err == nil) != tt.ok || err == nil && id.User != tt.name {
			t.Errorf("Certificate: %q: %q, %v", tt.name, id.User, err)
		}
		if id, err := (auth.Anonymous{}).Authenticate(t.Context(), a); err != nil || id.User != tt.anonymous {
			t.Errorf("Anonymous: %q: %q, %v", tt.name, id.User, err)
		}
	}
	if _, err := (auth.Certificate{}).Authenticate(t.Context(), auth.Attempt{}); err == nil {
		t.Error("Certificate lets somebody in who has none")
	}
}
