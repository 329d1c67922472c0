package ca

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRevoke(t *testing.T) {
	a, server, client := site(t)
	names := func() (names []string) {
		t.Helper()
		entries, err := a.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			state := "good"
			if !e.Revoked.IsZero() {
				state = "revoked"
			}
			names = append(names, e.Name+" "+state)
		}
		return names
	}
	if _, err := a.Revoke("nobody"); err == nil {
		t.Error("nobody was revoked")
	}
	if _, err := a.Revoke("ca"); err == nil || !strings.Contains(err.Error(), "ca is no certificate that this authority has made") {
		t.Errorf("the authority itself: %v", err)
	}
	if list, err := a.revocations(); err != nil || list.Number.Int64() != 1 || len(list.RevokedCertificateEntries) > 0 {
		t.Errorf("the list from the beginning: %+v, %v", list, err)
	}
	name := strings.TrimSuffix(filepath.Base(client.Cert), ".crt")
	for range 2 { // the second time it is there already
		if _, err := a.Revoke(name); err != nil {
			t.Fatal(err)
		}
	}
	broker := strings.TrimSuffix(filepath.Base(server.Cert), ".crt")
	want := []string{broker + " good", name + " revoked"}
	slices.Sort(want)
	if got := names(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	list, err := a.revocations()
	if err != nil || len(list.RevokedCertificateEntries) != 1 || list.Number.Int64() != 3 || !list.NextUpdate.Equal(a.cert.NotAfter) {
		t.Errorf("%+v, %v", list, err)
	}

	// A new certificate for who has lost the old one.
	f, before, err := a.Renew(name, LeafLife)
	if err != nil {
		t.Fatal(err)
	}
	if f.Cert != client.Cert || f.Key != client.Key {
		t.Errorf("the new one is %s, not %s", f.Cert, client.Cert)
	}
	for _, file := range []string{f.Cert, f.Key, before.Cert, before.Key} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
	if got := names(); len(got) != 3 || !slices.Contains(got, name+" good") {
		t.Errorf("%v", got)
	}
	if revoked, err := a.Revoke(f.Cert); err != nil || len(revoked) != 1 { // by its path
		t.Fatal(revoked, err)
	}
	if got := names(); !slices.Contains(got, name+" revoked") {
		t.Errorf("%v", got)
	}

	// What cannot be renewed stays.
	if _, _, err := a.Renew(broker, time.Hour); err == nil {
		t.Error("a certificate for an hour")
	}
	for _, file := range []string{server.Cert, server.Key} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := a.Renew("ca", LeafLife); err == nil {
		t.Error("the authority was renewed as a client")
	}
}

// Whoever has stolen a device has the certificate that was on it, which may be one of before a renewal.
func TestRevokeAfterRenewal(t *testing.T) {
	a, _, client := site(t)
	name := strings.TrimSuffix(filepath.Base(client.Cert), ".crt")
	if _, err := a.Client(name+"-2", LeafLife); err != nil { // somebody else
		t.Fatal(err)
	}
	for range 2 {
		if _, _, err := a.Renew(name, LeafLife); err != nil {
			t.Fatal(err)
		}
	}
	revoked, err := a.Revoke(name)
	if err != nil || len(revoked) != 3 {
		t.Errorf("%d certificates are revoked, want 3: %v", len(revoked), err)
	}
	entries, err := a.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if of := e.Cert.Subject.CommonName == name; e.Revoked.IsZero() == of {
			t.Errorf("%s (%s): revoked %v", e.Name, e.Subject(), e.Revoked)
		}
	}
}

// A renewed server has the names of before.
func TestRenewServer(t *testing.T) {
	a, server, _ := site(t)
	old, err := readCert(server.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = a.Renew(old.Subject.CommonName, LeafLife); err != nil {
		t.Fatal(err)
	}
	next, err := readCert(server.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(next.DNSNames, old.DNSNames) || len(next.IPAddresses) != len(old.IPAddresses) || next.SerialNumber.Cmp(old.SerialNumber) == 0 {
		t.Errorf("%v %v, was %v %v", next.DNSNames, next.IPAddresses, old.DNSNames, old.IPAddresses)
	}
}

func TestOpenSSLRefusesRevoked(t *testing.T) {
	need(t, "openssl")
	a, server, client := site(t)
	if _, err := a.Revoke(client.Cert); err != nil {
		t.Fatal(err)
	}
	for file, good := range map[string]bool{client.Cert: false, server.Cert: true} {
		out, err := exec.Command("openssl", "verify", "-crl_check", "-CAfile", a.Files().Cert, "-CRLfile", a.Revocations(), file).CombinedOutput()
		if (err == nil) != good || !good && !strings.Contains(string(out), "certificate revoked") {
			t.Errorf("%s: %v: %s", file, err, out)
		}
	}
}
