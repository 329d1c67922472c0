package listen

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"
)

// Files are the PEM files of a TLS listener.
type Files struct {
	Cert, Key string                            // the server's certificate with its chain, and its private key
	ReadKey   func(file string) ([]byte, error) // reads Key as PEM that is not encrypted; nil: it is not
	ClientCA  string                            // who may sign client certificates; empty: none are asked for
	// CRL are the lists of revoked certificates that the CAs in ClientCA have signed; empty: none.
	// A list that should have been followed by another stays in force.
	CRL string
	// RequireCertificate refuses clients without a certificate that ClientCA signed.
	RequireCertificate bool
	MinVersion         uint16           // tls.VersionTLS12 or 13; 0: 1.2
	Every              time.Duration    // for how long changed files have to rest before they are in force, and how often one looks at files of which the kernel does not tell; 0: 400 ms
	Now                func() time.Time // the time that certificates are judged by; nil: the machine's
}

// keys are what one state of the files amounts to. They do not change.
type keys struct {
	config  *tls.Config
	clients *x509.CertPool // nil: no certificates are asked for
	revoked map[string]bool
	stale   []string // issuers of lists that are past their time
	clock   func() time.Time
	floor   time.Time
}

// load reads the files.
func (f *Files) load() (*keys, error) {
	cert, err := f.pair()
	if err != nil {
		return nil, fmt.Errorf("load certificate %s with key %s: %w", f.Cert, f.Key, err)
	}
	k := &keys{clock: f.Now, floor: cert.Leaf.NotBefore}
	if k.clock == nil {
		k.clock = time.Now
	}
	k.config = &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   max(f.MinVersion, tls.VersionTLS12),
		NextProtos:   []string{"mqtt", "http/1.1"},
		Time:         k.now,
	}
	if f.ClientCA == "" {
		return k, nil
	}
	authorities, err := certificates(f.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("load client CA: %w", err)
	}
	k.clients = x509.NewCertPool()
	for _, a := range authorities {
		k.clients.AddCert(a)
	}
	if f.CRL != "" {
		if err := k.revoke(f.CRL, authorities); err != nil {
			return nil, fmt.Errorf("load CRL: %w", err)
		}
	}
	k.config.ClientCAs = k.clients
	k.config.ClientAuth = tls.VerifyClientCertIfGiven
	if f.RequireCertificate {
		k.config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	// Unlike VerifyPeerCertificate it is called for resumed sessions, too.
	k.config.VerifyConnection = func(s tls.ConnectionState) error { return k.check(s.VerifiedChains) }
	return k, nil
}

// pair reads the server's certificate and key.
func (f *Files) pair() (tls.Certificate, error) {
	if f.ReadKey == nil {
		return tls.LoadX509KeyPair(f.Cert, f.Key)
	}
	cert, err := os.ReadFile(f.Cert)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := f.ReadKey(f.Key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// now is the time by which certificates are judged. A board without a battery for its clock begins
// in the past: a clock that has not come to the server's own certificate yet has not been set.
func (k *keys) now() time.Time {
	if now := k.clock(); now.After(k.floor) {
		return now
	}
	return k.floor
}

// admit tells whether a connection that was let in before would be let in now.
func (k *keys) admit(s tls.ConnectionState) error {
	if k.clients == nil || len(s.PeerCertificates) == 0 {
		return nil
	}
	o := x509.VerifyOptions{
		Roots: k.clients, Intermediates: x509.NewCertPool(), CurrentTime: k.now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, c := range s.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	chains, err := s.PeerCertificates[0].Verify(o)
	if err != nil {
		return err
	}
	return k.check(chains)
}

// check refuses a client all of whose chains have a revoked certificate.
func (k *keys) check(chains [][]*x509.Certificate) error {
	var err error
	for _, chain := range chains {
		if err = k.checkChain(chain); err == nil {
			return nil
		}
	}
	return err
}

func (k *keys) checkChain(chain []*x509.Certificate) error {
	for _, c := range chain {
		if k.revoked[string(c.RawIssuer)+c.SerialNumber.Text(16)] {
			return fmt.Errorf("the certificate of %s, serial number %x, is revoked", c.Subject, c.SerialNumber)
		}
	}
	return nil
}

// revoke reads a file of revocation lists, each signed by one of the authorities.
func (k *keys) revoke(file string, authorities []*x509.Certificate) error {
	k.revoked = make(map[string]bool)
	lists := 0
	err := blocks(file, "X509 CRL", func(der []byte) error {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return err
		}
		lists++
		if !signed(list, authorities) {
			return fmt.Errorf("the list of %s is signed by none of the client CAs", list.Issuer)
		}
		for _, e := range list.RevokedCertificateEntries {
			k.revoked[string(list.RawIssuer)+e.SerialNumber.Text(16)] = true
		}
		if !list.NextUpdate.IsZero() && k.now().After(list.NextUpdate) {
			k.stale = append(k.stale, list.Issuer.String())
		}
		return nil
	})
	if err == nil && lists == 0 {
		err = errors.New("no PEM block X509 CRL in it")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

func signed(list *x509.RevocationList, by []*x509.Certificate) bool {
	for _, a := range by {
		if string(a.RawSubject) == string(list.RawIssuer) && list.CheckSignatureFrom(a) == nil {
			return true
		}
	}
	return false
}

// certificates reads a file of certificates.
func certificates(file string) ([]*x509.Certificate, error) {
	var found []*x509.Certificate
	err := blocks(file, "CERTIFICATE", func(der []byte) error {
		c, err := x509.ParseCertificate(der)
		found = append(found, c)
		return err
	})
	if err == nil && len(found) == 0 {
		err = errors.New("no certificate in PEM form in it")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return found, nil
}

// blocks calls f with each PEM block of a kind.
func blocks(file, kind string, f func(der []byte) error) error {
	rest, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil
		}
		if block.Type != kind {
			continue
		}
		if err := f(block.Bytes); err != nil {
			return err
		}
	}
}
