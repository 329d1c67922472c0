package bridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"
)

// A target is where a URL points to.
type target struct {
	url    string // without user and password
	host   string
	port   string
	secure bool
}

func (t target) address() string { return net.JoinHostPort(t.host, t.port) }

// parseTarget reads mqtt://host:port and mqtts://host:port. tcp is another word for mqtt; tls and
// ssl are for mqtts.
func parseTarget(s string) (target, error) {
	u, err := url.Parse(s)
	if err != nil {
		var bad *url.Error
		if errors.As(err, &bad) {
			err = bad.Err // without the url, which may have a password in it
		}
		return target{}, fmt.Errorf("url: %w", err)
	}
	t := target{host: u.Hostname(), port: u.Port()}
	standard := "1883"
	switch u.Scheme {
	case "mqtt", "tcp":
	case "mqtts", "tls", "ssl":
		t.secure, standard = true, "8883"
	default:
		return target{}, fmt.Errorf("url %q: scheme %q is not known, use mqtt://host:port or mqtts://host:port", u.Redacted(), u.Scheme)
	}
	switch {
	case t.host == "":
		return target{}, fmt.Errorf("url %q: the host is missing", u.Redacted())
	case u.User != nil:
		return target{}, fmt.Errorf("url %q: user and password have settings of their own, take them out of the url", u.Redacted())
	case u.Path != "" && u.Path != "/" || u.RawQuery != "":
		return target{}, fmt.Errorf("url %q: nothing may follow the port", u.Redacted())
	}
	if t.port == "" {
		t.port = standard
	}
	t.url = u.Scheme + "://" + t.address()
	return t, nil
}

// dial connects to t: name, socket and TLS handshake, all before ctx ends. config is asked at
// each call, so that renewed certificates are used.
func dial(ctx context.Context, t target, config func() (*tls.Config, error)) (net.Conn, error) {
	var tlsConfig *tls.Config
	if t.secure {
		var err error
		if tlsConfig, err = tlsFor(t, config); err != nil {
			return nil, err
		}
	}
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true}}
	conn, err := dialer.DialContext(ctx, "tcp", t.address())
	if err != nil || !t.secure {
		return conn, err
	}
	secured := tls.Client(conn, tlsConfig)
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: %w", errHandshake, err)
	}
	return secured, nil
}

func tlsFor(t target, config func() (*tls.Config, error)) (*tls.Config, error) {
	c := &tls.Config{}
	if config != nil {
		given, err := config()
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		c = given.Clone()
	}
	if c.ServerName == "" {
		c.ServerName = t.host
	}
	now := time.Now
	if c.Time != nil {
		now = c.Time
	}
	for _, cert := range c.Certificates {
		if err := checkOwn(cert, now()); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// checkOwn refuses to dial with a certificate that the cloud must refuse, for which the answer
// would often be a closed connection without a reason.
func checkOwn(cert tls.Certificate, now time.Time) error {
	leaf := cert.Leaf
	if leaf == nil && len(cert.Certificate) > 0 {
		var err error
		if leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return fmt.Errorf("own certificate: %w", err)
		}
	}
	switch {
	case leaf == nil:
		return nil
	case now.After(leaf.NotAfter):
		return fmt.Errorf("own certificate %q expired at %s: renew it, the new file is taken at the next try",
			leaf.Subject.CommonName, leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("own certificate %q is valid from %s on, and this clock says %s: set the clock",
			leaf.Subject.CommonName, leaf.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}
