package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// CheckFiles looks at the files that the configuration refers to: whether secrets, keys and
// certificates can be read and by whom, fit together, and are in force now. A problem here
// stops the listener or the bridge that needs the file, nothing else. If now is zero, nobody knows the
// time of day, and what is in force is not asked.
func (c *Config) CheckFiles(now time.Time) Problems {
	f := fileChecker{places: c.at, now: now}
	for i, l := range c.Listeners {
		if l.TLS == nil {
			continue
		}
		at := fmt.Sprintf("listeners[%d].tls", i)
		f.pair(l.TLS.Cert, l.TLS.Key, l.TLS.KeyPassword, at, x509.ExtKeyUsageServerAuth)
		f.authorities(l.TLS.ClientCA, at+".client_ca")
		f.revocations(l.TLS.CRL, at+".crl")
	}
	f.httpAuth(c)
	for i, b := range c.Bridges {
		at := fmt.Sprintf("bridges[%d]", i)
		f.pair(b.TLS.Cert, b.TLS.Key, b.TLS.KeyPassword, at+".tls", x509.ExtKeyUsageClientAuth)
		f.authorities(b.TLS.CA, at+".tls.ca")
		_, err := b.Password.Reveal()
		if b.Password.inline {
			err = private(c.at.file)
		}
		if err != nil {
			f.failed(at+".password", err)
		}
	}
	f.problems.sort()
	return f.problems
}

// httpAuth looks at the files of the HTTP service, and at who can read the secrets for it.
func (f *fileChecker) httpAuth(c *Config) {
	h := c.Auth.HTTP
	if h == nil {
		return
	}
	f.pair(h.TLS.Cert, h.TLS.Key, h.TLS.KeyPassword, "auth.http_auth.tls", x509.ExtKeyUsageClientAuth)
	f.authorities(h.TLS.CA, "auth.http_auth.tls.ca")
	_, err := h.SignKey.Reveal()
	if h.SignKey.inline {
		err = private(f.file)
	}
	if err != nil {
		f.failed("auth.http_auth.sign_key", err)
	}
	for _, r := range []*HTTPRequest{&h.Auth, h.Super, h.ACL} {
		if r == nil {
			continue
		}
		for name := range r.Headers {
			if err := private(f.file); err != nil && strings.EqualFold(name, "authorization") {
				f.failed("auth.http_auth", err)
			}
		}
	}
}

type fileChecker struct {
	places
	now      time.Time
	problems Problems
}

func (f *fileChecker) report(key, format string, args ...any) {
	f.problems = append(f.problems, f.problem(key, format, args...))
}

// failed reports a file that cannot be used, with the remedy for the usual reasons.
func (f *fileChecker) failed(key string, err error) {
	remedy := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		remedy = "; put the file there, or correct the path"
	case errors.Is(err, fs.ErrPermission):
		remedy = "; let the gateway's user read it"
	}
	f.report(key, "%s%s", oneLine(err), remedy)
}

// pair checks a certificate with its key, for a server or a client.
func (f *fileChecker) pair(cert, key string, password Secret, at string, usage x509.ExtKeyUsage) {
	if cert == "" || key == "" {
		return
	}
	certPEM, err := os.ReadFile(cert)
	if err != nil {
		f.failed(at+".cert", err)
	}
	keyPEM, err2 := ReadKey(key, password)
	if err2 == nil {
		err2 = private(key)
	}
	if err2 != nil {
		f.failed(at+".key", err2)
	}
	if err != nil || keyPEM == nil {
		return
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		f.report(at, "%s and %s: %s; give a PEM certificate and the key that it was made for", cert, key, oneLine(err))
		return
	}
	f.period(pair.Leaf, cert, at+".cert")
	usages := pair.Leaf.ExtKeyUsage
	if len(usages) > 0 && !slices.Contains(usages, usage) && !slices.Contains(usages, x509.ExtKeyUsageAny) {
		f.report(at+".cert", "%s is not for a %s; make another with: gateway ca %s NAME", cert, roles[usage], roles[usage])
	}
	if usage == x509.ExtKeyUsageServerAuth && len(pair.Leaf.DNSNames)+len(pair.Leaf.IPAddresses) == 0 {
		f.report(at+".cert", "%s has no subject alternative name, clients refuse it; make another with: gateway ca server NAME", cert)
	}
}

var roles = map[x509.ExtKeyUsage]string{
	x509.ExtKeyUsageServerAuth: "server",
	x509.ExtKeyUsageClientAuth: "client",
}

// authorities checks a file of CA certificates.
func (f *fileChecker) authorities(file, key string) {
	f.each(file, key, "CERTIFICATE", "certificate", func(der []byte) error {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if !cert.IsCA {
			f.report(key, "%s: %s is not a CA; give the certificate that signed it", file, quoteShort(cert.Subject.CommonName))
		}
		f.period(cert, file, key)
		return nil
	})
}

// revocations checks a file of lists of revoked certificates.
func (f *fileChecker) revocations(file, key string) {
	f.each(file, key, "X509 CRL", "block X509 CRL", func(der []byte) error {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return err
		}
		if f.now.After(list.NextUpdate) && !list.NextUpdate.IsZero() {
			f.report(key, "%s: a newer list was due on %s; until it is there, this one stays in force", file, list.NextUpdate.Format(time.DateOnly))
		}
		return nil
	})
}

// each hands the PEM blocks of a kind to check, and reports what it says. A file without one is a
// problem.
func (f *fileChecker) each(file, key, kind, noun string, check func(der []byte) error) {
	if file == "" {
		return
	}
	rest, err := os.ReadFile(file)
	if st, statErr := os.Stat(file); statErr == nil && st.IsDir() {
		f.report(key, "%s is a folder; put what is in it into one file: cat %s > all.pem, and give all.pem", file, contents(file))
		return
	}
	if err != nil {
		f.failed(key, err)
		return
	}
	count := 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != kind {
			continue
		}
		if err := check(block.Bytes); err != nil {
			f.report(key, "%s: %s", file, oneLine(err))
			continue
		}
		count++
	}
	if count == 0 {
		f.report(key, "%s holds no PEM %s", file, noun)
	}
}

// contents returns how the shell names the certificates of a folder: by their hashes, as openssl rehash
// makes links for those that Mosquitto would trust, or without these by what their names end with.
func contents(folder string) string {
	const hashed = "[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f].[0-9]"
	if links, err := filepath.Glob(filepath.Join(folder, hashed)); err == nil && len(links) > 0 {
		return folder + "/????????.[0-9]"
	}
	var ends []string
	for _, end := range []string{"/*.pem", "/*.crt"} {
		if files, err := filepath.Glob(folder + end); err == nil && len(files) > 0 {
			ends = append(ends, folder+end)
		}
	}
	if len(ends) == 0 {
		return folder + "/*"
	}
	return strings.Join(ends, " ")
}

// period checks that a certificate is in force.
func (f *fileChecker) period(cert *x509.Certificate, file, key string) {
	switch {
	case f.now.IsZero():
	case f.now.After(cert.NotAfter):
		f.report(key, "%s expired on %s; make a new one", file, cert.NotAfter.Format(time.DateOnly))
	case f.now.Before(cert.NotBefore):
		f.report(key, "%s is not in force before %s; set the clock of this machine, which says %s",
			file, cert.NotBefore.Format(time.DateOnly), f.now.Format(time.DateOnly))
	}
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", " ") }
