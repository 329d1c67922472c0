package ca

import (
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// An Entry is a certificate in the folder of an authority.
type Entry struct {
	Name    string // of its file, without .crt
	Cert    *x509.Certificate
	Revoked time.Time // zero: it is not
}

// Serial returns the serial number as other programs write it.
func (e *Entry) Serial() string { return strings.ToUpper(e.Cert.SerialNumber.Text(16)) }

// List returns the certificates that the authority has made and that are in its folder, by name;
// those of before a renewal are in there too.
func (a *Authority) List() ([]Entry, error) {
	list, err := a.revocations()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(a.dir, "*.crt"))
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, f := range files {
		cert, err := readCert(f)
		if err != nil {
			return nil, err
		}
		if cert.CheckSignatureFrom(a.cert) != nil || cert.Equal(a.cert) {
			continue // it is somebody else's, or the authority's own
		}
		entries = append(entries, Entry{
			Name: strings.TrimSuffix(filepath.Base(f), ".crt"), Cert: cert, Revoked: revokedAt(list, cert),
		})
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	return entries, nil
}

func revokedAt(list *x509.RevocationList, cert *x509.Certificate) time.Time {
	if list == nil {
		return time.Time{}
	}
	for _, e := range list.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(cert.SerialNumber) == 0 {
			return e.RevocationTime
		}
	}
	return time.Time{}
}

// Revocations is the authority's list of revoked certificates.
func (a *Authority) Revocations() string { return filepath.Join(a.dir, "ca.crl") }

// revocations reads the list; nil: there is none yet.
func (a *Authority) revocations() (*x509.RevocationList, error) {
	b, err := os.ReadFile(a.Revocations())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of revoked certificates: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "X509 CRL" {
		return nil, fmt.Errorf("%s is no list of revoked certificates in PEM", a.Revocations())
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err == nil {
		err = list.CheckSignatureFrom(a.cert)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Revocations(), err)
	}
	return list, nil
}

// Revoke puts certificates on the list, and returns those that were not there. A name stands for all
// that were made for it, renewed ones too: who has stolen a device has the key that was on it. A path is
// one certificate. The list replaces the one of before, and is in force as long as the authority.
func (a *Authority) Revoke(names ...string) (revoked []Entry, err error) {
	now := a.now()
	if now.Before(clockFloor) {
		return nil, fmt.Errorf("the clock of this machine says %s; set it first", now.Format(time.DateOnly))
	}
	old, err := a.revocations()
	if err != nil {
		return nil, err
	}
	next := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.UTC(), NextUpdate: a.cert.NotAfter}
	if old != nil {
		next.Number = new(big.Int).Add(old.Number, big.NewInt(1))
		for _, e := range old.RevokedCertificateEntries {
			next.RevokedCertificateEntries = append(next.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: e.SerialNumber, RevocationTime: e.RevocationTime})
		}
	}
	for _, name := range names {
		issued, err := a.issued(name)
		if err != nil {
			return nil, err
		}
		for _, e := range issued {
			if revokedAt(next, e.Cert).IsZero() {
				next.RevokedCertificateEntries = append(next.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: e.Cert.SerialNumber, RevocationTime: now.UTC()})
				revoked = append(revoked, e)
			}
		}
	}
	der, err := x509.CreateRevocationList(rand.Reader, next, a.cert, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the list: %w", err)
	}
	return revoked, replace(a.Revocations(), &pem.Block{Type: "X509 CRL", Bytes: der})
}

// issued returns the certificate at a path, or those that were made for a name: that in the file of the
// name, and all others of the same kind and common name.
func (a *Authority) issued(name string) ([]Entry, error) {
	path := name
	one := filepath.Ext(name) == ".crt" || strings.ContainsRune(name, filepath.Separator)
	if !one {
		path = filepath.Join(a.dir, fileName(name)+".crt")
	}
	cert, err := readCert(path)
	if err != nil {
		return nil, err
	}
	if err := cert.CheckSignatureFrom(a.cert); err != nil || cert.Equal(a.cert) {
		return nil, fmt.Errorf("%s is no certificate that this authority has made", name)
	}
	if one {
		return []Entry{{Name: strings.TrimSuffix(filepath.Base(path), ".crt"), Cert: cert}}, nil
	}
	all, err := a.List()
	return slices.DeleteFunc(all, func(e Entry) bool {
		return e.Cert.Subject.CommonName != cert.Subject.CommonName || !slices.Equal(e.Cert.ExtKeyUsage, cert.ExtKeyUsage)
	}), err
}

// Renew makes a certificate with a new key for who has one already, under the same names. The files
// of before stay, with the certificate's serial number in their names; the old certificate is in
// force until it expires or is revoked.
func (a *Authority) Renew(name string, life time.Duration) (f Files, before Files, err error) {
	f = Files{Cert: filepath.Join(a.dir, fileName(name)+".crt"), Key: filepath.Join(a.dir, fileName(name)+".key")}
	old, err := readCert(f.Cert)
	if err != nil {
		return f, before, err
	}
	if err := old.CheckSignatureFrom(a.cert); err != nil || old.Equal(a.cert) {
		return f, before, fmt.Errorf("%s is no certificate that this authority has made", name)
	}
	aside := filepath.Join(a.dir, fileName(name)+"-"+old.SerialNumber.Text(16))
	before = Files{Cert: aside + ".crt", Key: aside + ".key", NotAfter: old.NotAfter}
	back := func() { // as it was
		_ = os.Rename(before.Key, f.Key)
		_ = os.Rename(before.Cert, f.Cert)
	}
	if err := os.Rename(f.Key, before.Key); err != nil && !errors.Is(err, fs.ErrNotExist) { // the key may live elsewhere
		return f, before, err
	}
	if err := os.Rename(f.Cert, before.Cert); err != nil {
		back()
		return f, before, err
	}
	template := &x509.Certificate{ExtKeyUsage: old.ExtKeyUsage, DNSNames: old.DNSNames, IPAddresses: old.IPAddresses}
	next, err := a.leaf(template, old.Subject.CommonName, life)
	if err != nil {
		back()
		return f, before, err
	}
	return next, before, nil
}

func readCert(file string) (*x509.Certificate, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s is no certificate in PEM", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return cert, nil
}

// replace puts a file in the place of another, which everyone may read.
func replace(name string, block *pem.Block) error {
	next := filepath.Join(filepath.Dir(name), ".next-"+rand.Text())
	if err := create(next, 0o644, block); err != nil {
		return err
	}
	if err := os.Rename(next, name); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return syncFolder(filepath.Dir(name))
}

// Subject tells for people who a certificate is for.
func (e *Entry) Subject() string {
	if slices.Contains(e.Cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		return "server " + e.Cert.Subject.CommonName
	}
	return "client " + e.Cert.Subject.CommonName
}
