// Package ca is a small certificate authority in a folder: enough for the devices, brokers and
// bridges of one site. Keys are ECDSA P-256, certificates follow RFC 5280.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"
)

// How long certificates are in force, unless asked otherwise.
const (
	AuthorityLife = 10 * 365 * 24 * time.Hour
	LeafLife      = 2 * 365 * 24 * time.Hour
)

// backdate is how far back certificates begin: a board without a battery for its clock is
// often some hours behind.
const backdate = 24 * time.Hour

// clockFloor is a time that has passed. A clock before it has not been set, and what it dates
// would be out of force on every other machine.
var clockFloor = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// An Authority signs certificates. Its files are ca.crt and ca.key in its folder.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
	now  func() time.Time
}

// Files are a certificate and its key as PEM files.
type Files struct {
	Cert, Key string
	NotAfter  time.Time
}

// Init creates an authority in dir, which is created too, with mode 0700, and its list of revoked
// certificates, which has none. name is its common name. It does not touch an authority that exists.
func Init(dir, name string, life time.Duration) (*Authority, error) {
	return initAt(dir, name, life, time.Now)
}

func initAt(dir, name string, life time.Duration, now func() time.Time) (*Authority, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of the authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate a key: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs no further authorities
	}
	a := &Authority{dir: dir, cert: template, key: key, now: now}
	if _, err := a.sign(template, key, "ca", life); err != nil {
		return nil, err
	}
	if a, err = Open(dir); err != nil {
		return nil, err
	}
	a.now = now
	_, err = a.Revoke() // a list without entries, so that listeners can name it from the beginning
	return a, err
}

// Open returns the authority in dir.
func Open(dir string) (*Authority, error) {
	cert, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	st, err := os.Stat(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no authority in %s: %w; make one with: gateway ca init", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open the authority: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others can read the key of the authority; run: chmod 600 %s", key)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("open the authority in %s: %w", dir, err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("open the authority: %s is not the certificate of one", cert)
	}
	return &Authority{dir: dir, cert: pair.Leaf, key: signer, now: time.Now}, nil
}

// Files returns the authority's own.
func (a *Authority) Files() Files {
	return Files{filepath.Join(a.dir, "ca.crt"), filepath.Join(a.dir, "ca.key"), a.cert.NotAfter}
}

// Server makes the certificate of a server that is reached by names: DNS names and IP
// addresses. The first is the common name, and names the files.
func (a *Authority) Server(names []string, life time.Duration) (Files, error) {
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		if err := checkHost(name); err != nil {
			return Files{}, err
		}
		template.DNSNames = append(template.DNSNames, name)
	}
	if len(names) == 0 {
		return Files{}, errors.New("a server needs at least one name")
	}
	return a.leaf(template, names[0], life)
}

// Client makes the certificate of a client. Its common name becomes a user name.
func (a *Authority) Client(name string, life time.Duration) (Files, error) {
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	return a.leaf(template, name, life)
}

// leaf completes and signs a certificate that signs no others.
func (a *Authority) leaf(template *x509.Certificate, name string, life time.Duration) (Files, error) {
	if err := checkName(name); err != nil {
		return Files{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Files{}, fmt.Errorf("generate a key: %w", err)
	}
	template.Subject = pkix.Name{CommonName: name}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	return a.sign(template, key, fileName(name), life)
}

// sign dates the template, signs it, and writes it with its key as name.crt and name.key.
func (a *Authority) sign(template *x509.Certificate, key *ecdsa.PrivateKey, name string, life time.Duration) (Files, error) {
	now := a.now()
	if now.Before(clockFloor) {
		return Files{}, fmt.Errorf("the clock of this machine says %s; set it first", now.Format(time.DateOnly))
	}
	if life < 24*time.Hour {
		return Files{}, errors.New("a certificate is in force for at least a day")
	}
	template.NotBefore, template.NotAfter = now.Add(-backdate).UTC(), now.Add(life).UTC()
	if !template.IsCA {
		if now.After(a.cert.NotAfter) {
			return Files{}, fmt.Errorf("the authority expired on %s; make another in a new folder", a.cert.NotAfter.Format(time.DateOnly))
		}
		if template.NotAfter.After(a.cert.NotAfter) {
			template.NotAfter = a.cert.NotAfter
		}
		if template.NotBefore.Before(a.cert.NotBefore) {
			template.NotBefore = a.cert.NotBefore
		}
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Files{}, fmt.Errorf("encode the public key: %w", err)
	}
	id := sha256.Sum256(public)
	template.SubjectKeyId = id[:20] // RFC 7093, section 2, method 4
	cert, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Files{}, fmt.Errorf("sign the certificate: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Files{}, fmt.Errorf("encode the key: %w", err)
	}
	f := Files{filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key"), template.NotAfter}
	return f, f.write(cert, private)
}
