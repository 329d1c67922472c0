package bridge

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"time"
)

// A dialer opens connections to the cloud, up to where MQTT begins.
type dialer struct {
	proxy     Proxy         // no URL: none
	lookup    time.Duration // for the name
	handshake time.Duration // for TLS, and for a proxy or a WebSocket
	upgrade   func(ctx context.Context, conn net.Conn, url string) (net.Conn, error)
}

// dial connects to t: name, socket, proxy, TLS and WebSocket, all before ctx ends. config is asked
// at each call, so that renewed certificates are used.
func (d dialer) dial(ctx context.Context, t target, config func() (*tls.Config, error)) (net.Conn, error) {
	var tlsConfig *tls.Config
	if t.secure {
		var err error
		if tlsConfig, err = tlsFor(t, config); err != nil {
			return nil, err
		}
	}
	conn, err := d.reach(ctx, t)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, d.handshake)
	defer stop()
	if t.secure {
		secured := tls.Client(conn, tlsConfig)
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, fmt.Errorf("%w: %w", errHandshake, err)
		}
		conn = secured
	}
	if t.path == "" {
		return conn, nil
	}
	socket, err := d.upgrade(ctx, conn, t.url)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: %w", errSocket, err)
	}
	return socket, nil
}

// reach opens a connection to t, through the proxy if there is one.
func (d dialer) reach(ctx context.Context, t target) (net.Conn, error) {
	if d.proxy.URL == "" {
		return d.connect(ctx, t.host, t.port)
	}
	address, socks, err := d.proxy.address()
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProxy, err)
	}
	conn, err := d.connect(ctx, host, port)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProxy, err)
	}
	ctx, stop := context.WithTimeout(ctx, d.handshake)
	defer stop()
	ask := d.proxy.askHTTP
	if socks {
		ask = d.proxy.askSOCKS
	}
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if err := ask(conn, t); err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", errProxy, err)
	}
	return conn, nil
}

// connect looks a name up, and tries its addresses one after the other. Each has its share of the
// time, so that one which does not answer does not hide the others.
func (d dialer) connect(ctx context.Context, host, port string) (net.Conn, error) {
	lookup, stop := context.WithTimeout(ctx, d.lookup)
	defer stop()
	addresses, err := net.DefaultResolver.LookupHost(lookup, host)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true}}
	var failed error
	for i, a := range addresses {
		share := ctx
		if end, ok := ctx.Deadline(); ok {
			var stop context.CancelFunc
			share, stop = context.WithTimeout(ctx, time.Until(end)/time.Duration(len(addresses)-i))
			defer stop()
		}
		conn, err := dialer.DialContext(share, "tcp", net.JoinHostPort(a, port))
		if err == nil {
			return conn, nil
		}
		failed = cmp.Or(failed, err) // the first is the one that is preferred
	}
	return nil, failed
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
