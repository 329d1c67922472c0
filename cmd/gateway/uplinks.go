package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"gateway/board/clock"
	"gateway/bridge"
	"gateway/broker"
	"gateway/broker/auth/scram"
	"gateway/broker/listen"
	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/config"
)

// queueTime is how long the start waits for the queues of the bridges: for a commit each. A disk
// that takes longer is in trouble, of which others tell.
const queueTime = 2 * time.Second

// bridge starts the bridges: when it returns, their queues take what is published. They connect
// when begin is closed. Whatever happens upstream, they go on trying.
func (g *gateway) bridge(c *config.Config, begin <-chan struct{}) error {
	var ctx context.Context
	ctx, g.stopUplinks = context.WithCancel(context.Background())
	late, cancel := context.WithTimeout(ctx, queueTime)
	defer cancel()
	redate := g.redate()
	for _, b := range c.Bridges {
		if err := g.keepDeadLetters(b.Name); err != nil {
			g.log.Error("dead letters of the bridge are not kept", "bridge", b.Name, "error", err)
		}
		up, err := bridge.New(g.bridgeConfig(b, redate))
		if err != nil {
			return configError{err}
		}
		opened := make(chan struct{})
		g.uplinks.Go(func() {
			_ = up.Open(ctx) // Run tries again, and tells
			close(opened)
			select {
			case <-begin:
			case <-ctx.Done():
			}
			if err := up.Run(ctx); err != nil {
				g.log.Error("bridge ended", "bridge", b.Name, "error", err)
			}
		})
		select {
		case <-opened:
		case <-late.Done():
			g.log.Warn("the disk is slow: what is published now may not reach the cloud", "bridge", b.Name)
		}
	}
	return nil
}

// bridgeConfig makes a bridge of the configuration one of the package.
func (g *gateway) bridgeConfig(b config.Bridge, redate func(*packet.Publish, *session.Message)) bridge.Config {
	password, err := b.Password.Reveal()
	if err != nil {
		// The cloud will refuse the bridge, whose queue is needed all the same.
		g.log.Error("the bridge has no password", "bridge", b.Name, "error", err)
	}
	proxyPassword, err := b.ProxyPassword.Reveal()
	if err != nil {
		g.log.Error("the proxy of the bridge has no password", "bridge", b.Name, "error", err)
	}
	c := bridge.Config{
		Name: b.Name, ClientID: b.ClientID,
		URLs: append([]string{b.URL}, b.Fallback...), ReturnInterval: b.ReturnAfter,
		Proxy:         bridge.Proxy{URL: b.Proxy, Username: b.ProxyUsername, Password: proxyPassword},
		LookupTimeout: b.DNSTimeout, HandshakeTimeout: b.HandshakeTime, Upgrade: listen.Upgrade,
		Username: b.Username, Password: password,
		AnnounceBridge: b.Announce, Rules: bridgeRules(b.Rules), StateTopic: b.StateTopic,
		TLS:       func() (*tls.Config, error) { return bridgeTLS(b.TLS, g.clock) },
		KeepAlive: b.KeepAlive, ConnectTimeout: b.ConnectTimeout, AckTimeout: b.AckTimeout,
		BackoffMin: b.Backoff.Min, BackoffMax: b.Backoff.Max,
		Window: b.Window, MaxPacket: int(b.MaxPacket), SessionExpiry: b.SessionExpiry,
		ReplayRate: bridge.Rate{Messages: b.ReplayRate.Messages, Bytes: int(b.ReplayRate.Bytes)},
		Open: func(_ context.Context, lane int) (bridge.Session, error) {
			return g.server.Connect(broker.ClientOptions{
				ID: bridgeSession(b.Name, lane), SessionExpiry: broker.Never, ReceiveMaximum: uint16(b.Window), Amend: redate,
			})
		},
		Move: func(from, to bridge.Session, subs []packet.Subscription) error {
			return from.(*broker.Client).Move(to.(*broker.Client), subs)
		},
		Log: g.log,
	}
	if b.Version == "5.0" {
		c.Version = packet.V5
	}
	if b.Method != "" {
		c.Prover = func() (bridge.Prover, error) { return bridgeProver(b) }
	}
	if b.LostSession == "dead_letter" {
		c.LostSession = bridge.DeadLetter
	}
	if c.CircleLimit = b.CircleLimit; c.CircleLimit == 0 {
		c.CircleLimit = -1
	}
	c.Date = g.clock.Date
	c.Backlog = func(lane int) (int, time.Time) { return g.vault.count(bridgeSession(b.Name, lane)) }
	return c
}

// bridgeProver returns the bridge's side of its authentication method, with the password as it is
// now.
func bridgeProver(b config.Bridge) (bridge.Prover, error) {
	password, err := b.Password.Reveal()
	if err != nil {
		return nil, err
	}
	h, err := scram.ParseHash(b.Method)
	if err != nil {
		return nil, err
	}
	return scram.NewClient(h, b.Username, password)
}

// keepDeadLetters makes the session that keeps what the cloud of a bridge can never take.
func (g *gateway) keepDeadLetters(name string) error {
	topic := bridge.DeadTopic(name)
	c, err := g.server.Connect(broker.ClientOptions{ID: topic, SessionExpiry: broker.Never})
	if err != nil {
		return err
	}
	_, err = c.Subscribe(packet.Subscribe{ID: 1, Filters: []packet.Subscription{{
		Filter: topic + "/#", QoS: 1, RetainAsPublished: true, RetainHandling: 2,
	}}})
	return errors.Join(err, c.Close())
}

func bridgeRules(rules []config.Rule) []bridge.Rule {
	directions := map[string]bridge.Direction{"out": bridge.Out, "in": bridge.In, "both": bridge.Both}
	var out []bridge.Rule
	for _, r := range rules {
		out = append(out, bridge.Rule{
			Direction: directions[r.Direction], Filter: r.Filter, QoS: packet.QoS(r.QoS),
			LocalPrefix: r.LocalPrefix, RemotePrefix: r.RemotePrefix, LiveFirst: r.Replay == "live_first",
		})
	}
	return out
}

// bridgeTLS loads the files of a bridge afresh, so that renewed ones are used. The gateway's
// certificate was made before the gateway had it, whatever the clock says.
func bridgeTLS(f config.BridgeTLS, c *clock.Clock) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.ServerName, Time: c.Now}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("load CA: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("load CA: %s has no certificate in PEM form", f.CA)
		}
	}
	if f.Cert != "" {
		cert, err := loadPair(f)
		if err != nil {
			return nil, fmt.Errorf("load certificate %s with key %s: %w", f.Cert, f.Key, err)
		}
		c.Raise(cert.Leaf.NotBefore)
		t.Certificates = []tls.Certificate{cert}
	}
	if f.VerifyName == "cn" {
		verifyCommonName(t)
	}
	return t, nil
}

// loadPair loads the certificate of a client with its key, which may be encrypted.
func loadPair(f config.BridgeTLS) (tls.Certificate, error) {
	cert, err := os.ReadFile(f.Cert)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := config.ReadKey(f.Key, f.KeyPassword)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// verifyCommonName lets the name of the server stand in the common name of its certificate, where
// it stood before there were alternative names. All else is verified as ever. A certificate that
// has alternative names is judged by them.
func verifyCommonName(t *tls.Config) {
	name := t.ServerName
	t.InsecureSkipVerify = true // VerifyConnection does it
	t.VerifyConnection = func(s tls.ConnectionState) error {
		leaf := s.PeerCertificates[0]
		o := x509.VerifyOptions{Roots: t.RootCAs, CurrentTime: t.Time(), Intermediates: x509.NewCertPool()}
		for _, c := range s.PeerCertificates[1:] {
			o.Intermediates.AddCert(c)
		}
		want := cmp.Or(name, s.ServerName)
		switch {
		case want == "":
			return errors.New("verify_name: cn with an address in the url: give the name in the certificate as tls.server_name")
		case len(leaf.DNSNames)+len(leaf.IPAddresses) > 0:
			o.DNSName = want
		case !strings.EqualFold(leaf.Subject.CommonName, want):
			return fmt.Errorf("the cloud's certificate is for %q, not for %q: use that name in the url or as tls.server_name", leaf.Subject.CommonName, want)
		}
		_, err := leaf.Verify(o)
		return err
	}
}
