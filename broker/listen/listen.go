// Package listen opens the addresses at which clients connect: TCP, and TLS with or without
// client certificates.
package listen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// keepAlive finds peers that vanished without a word, for clients whose MQTT keep alive is 0.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}

// TCP opens an address such as "127.0.0.1:1883", or ":1883" for all addresses of the machine.
func TCP(ctx context.Context, address string) (net.Listener, error) {
	c := net.ListenConfig{KeepAliveConfig: keepAlive}
	ln, err := c.Listen(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use: another broker runs here, or another listener has the same port: %w", address, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s may not be used: ports below 1024 need the capability CAP_NET_BIND_SERVICE: %w", address, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s is no address of this machine: %w", address, err)
	}
	return ln, err
}

// Files are the PEM files of a TLS listener.
type Files struct {
	Cert, Key string // the server's certificate with its chain, and its private key
	ClientCA  string // who may sign client certificates; empty: none are asked for
	// RequireCertificate refuses clients without a certificate that ClientCA signed.
	RequireCertificate bool
}

// Config loads the files. TLS 1.2 is the oldest version that is spoken.
func (f Files) Config() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("load certificate %s with key %s: %w", f.Cert, f.Key, err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if f.ClientCA == "" {
		return c, nil
	}
	pem, err := os.ReadFile(f.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load CA: %s has no certificate in PEM form", f.ClientCA)
	}
	c.ClientAuth = tls.VerifyClientCertIfGiven
	if f.RequireCertificate {
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return c, nil
}
