package auth_test

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
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
	if _, err := (auth.Certificate{}).Authenticate(t.Context(), auth.Attempt{}); !errors.Is(err, auth.ErrUnknown) {
		t.Errorf("without a certificate: %v", err)
	}
}

// Templates make names out of what certificates have.
func TestCertificateTemplate(t *testing.T) {
	cert := &x509.Certificate{
		Raw: []byte("der"), SerialNumber: big.NewInt(0xBEEF),
		Subject:  pkix.Name{CommonName: "dev-1", Organization: []string{"Farm", "Other"}, OrganizationalUnit: []string{"a/b"}},
		DNSNames: []string{"dev-1.example"}, EmailAddresses: []string{"dev@example"}, URIs: []*url.URL{{Scheme: "urn", Opaque: "dev:1"}},
	}
	for _, tt := range []struct {
		user, id         string
		wantUser, wantID string // both empty: refused
	}{
		{"", "", "dev-1", ""},
		{"{O}-{serial}", "{DNS}", "Farm-beef", "dev-1.example"},
		{"{email}", "x-{CN}", "dev@example", "x-dev-1"},
		{"{URI}", "", "urn:dev:1", ""},
		{"{subject}", "", "", ""}, // the unit has a /
		{"{C}", "", "", ""},
		{"{CN}", "{L}", "", ""},
		{"{OU}", "", "", ""},
	} {
		id, err := auth.Certificate{User: tt.user, ClientID: tt.id}.Authenticate(t.Context(), auth.Attempt{Certificate: cert})
		if id.User != tt.wantUser || id.ClientID != tt.wantID || (err != nil) != (tt.wantUser == "") || errors.Is(err, auth.ErrUnknown) {
			t.Errorf("%q, %q: %+v, %v", tt.user, tt.id, id, err)
		}
	}
	id, err := auth.Certificate{User: "{fingerprint}"}.Authenticate(t.Context(), auth.Attempt{Certificate: cert})
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte("der"))); err != nil || id.User != want {
		t.Errorf("fingerprint: %q, %v", id.User, err)
	}
	cert.Subject.OrganizationalUnit, cert.Subject.Organization = nil, []string{"Farm"}
	if id, err = (auth.Certificate{User: "{subject}"}).Authenticate(t.Context(), auth.Attempt{Certificate: cert}); err != nil || id.User != "CN=dev-1,O=Farm" {
		t.Errorf("subject: %q, %v", id.User, err)
	}
	for template, ok := range map[string]bool{"{CN}": true, "x{O}y{DNS}": true, "plain": true, "{cn}": false, "{CN": false, "{}": false} {
		if err := auth.CheckTemplate(template); (err == nil) != ok {
			t.Errorf("CheckTemplate(%q): %v", template, err)
		}
	}
}
