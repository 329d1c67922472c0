package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"gateway/bridge"
	"gateway/broker"
	"gateway/broker/auth/scram"
	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/clock"
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
	c := bridge.Config{
		Name: b.Name, URL: b.URL, ClientID: b.ClientID,
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
		cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("load certificate %s with key %s: %w", f.Cert, f.Key, err)
		}
		c.Raise(cert.Leaf.NotBefore)
		t.Certificates = []tls.Certificate{cert}
	}
	return t, nil
}
