package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"

	"gateway/internal/ca"
)

// certificates are those of the broker and of the load, made anew for each run.
type certificates struct {
	authority, server ca.Files
	pair              tls.Certificate
	roots             *x509.CertPool
}

func newCertificates(dir string) (c certificates, err error) {
	authority, err := ca.Init(filepath.Join(dir, "ca"), "bench", ca.LeafLife)
	if err != nil {
		return c, err
	}
	c.authority = authority.Files()
	var err1, err2, err3 error
	c.server, err1 = authority.Server([]string{host}, ca.LeafLife)
	load, err2 := authority.Client("load", ca.LeafLife)
	if err := errors.Join(err1, err2); err != nil {
		return c, err
	}
	c.pair, err1 = tls.LoadX509KeyPair(load.Cert, load.Key)
	pem, err2 := os.ReadFile(c.authority.Cert)
	c.roots = x509.NewCertPool()
	if !c.roots.AppendCertsFromPEM(pem) {
		err3 = errors.New("the authority has no certificate")
	}
	return c, errors.Join(err1, err2, err3)
}

// transport returns one with the load's certificate. cache may be nil: no session is resumed.
func (c *certificates) transport(scheme string, cache tls.ClientSessionCache) transport {
	return transport{scheme, &tls.Config{
		Certificates: []tls.Certificate{c.pair}, RootCAs: c.roots, ServerName: host,
		ClientSessionCache: cache, MinVersion: tls.VersionTLS12,
	}}
}
