package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"os"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
	"gateway/config"
)

// expiryPeriod is the time between two looks at how long certificates are still in force.
const expiryPeriod = time.Hour

// warnings are how many days before its end a certificate is warned of.
var warnings = [...]int{30, 7, 1, 0}

// An expiry tells until when a file of certificates is in force: until the first of them ends.
type expiry struct {
	File    string    `json:"file"`
	Subject string    `json:"subject"` // of the certificate that ends first
	Until   time.Time `json:"until"`
	Days    int       `json:"days"` // that are left, rounded down; below 0: it has ended
	State   string    `json:"state"`
}

// expiryOf reads a file of certificates. ok is false for one that has none: others tell of that.
func expiryOf(file string, now time.Time) (e expiry, ok bool) {
	rest, err := os.ReadFile(file)
	if err != nil {
		return e, false
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || ok && !c.NotAfter.Before(e.Until) {
			continue
		}
		if now.Before(c.NotBefore) {
			continue // the clock has not been set yet
		}
		e, ok = expiry{File: file, Subject: c.Subject.String(), Until: c.NotAfter}, true
	}
	left := e.Until.Sub(now)
	e.Days = int(left / dayLength)
	switch {
	case left < 0:
		e.Days, e.State = e.Days-1, "expired"
	case left <= soon:
		e.State = "expires soon"
	default:
		e.State = "in force"
	}
	return e, ok
}

// level returns how many of the warnings are due.
func (e *expiry) level() (n int) {
	for _, days := range warnings {
		if e.Days < days {
			n++
		}
	}
	return n
}

// certificateFiles returns the files of certificates that a configuration names, by their topic.
func certificateFiles(c *config.Config) map[string]string {
	files := make(map[string]string)
	add := func(topic, file string) {
		if file != "" {
			files["$SYS/broker/certificates/"+topic] = file
		}
	}
	for _, l := range c.Listeners {
		if l.TLS != nil {
			add("listener/"+l.Name+"/cert", l.TLS.Cert)
			add("listener/"+l.Name+"/client_ca", l.TLS.ClientCA)
		}
	}
	for _, b := range c.Bridges {
		add("bridge/"+b.Name+"/cert", b.TLS.Cert)
		add("bridge/"+b.Name+"/ca", b.TLS.CA)
	}
	if h := c.Auth.HTTP; h != nil {
		add("http_auth/cert", h.TLS.Cert)
		add("http_auth/ca", h.TLS.CA)
	}
	return files
}

// tellExpiries tells on topics until when the certificates of a configuration are in force, until
// ctx ends.
func tellExpiries(ctx context.Context, c *config.Config, server *broker.Server, now func() time.Time, log *slog.Logger) {
	client, err := server.Connect(broker.ClientOptions{ID: "$certificates", CleanStart: true})
	if err != nil {
		log.Error("nobody is told when certificates expire", "error", err)
		return
	}
	defer client.Close()
	watchCertificates(ctx, certificateFiles(c), now, log, func(topic string, text []byte) {
		client.Publish(packet.Publish{Topic: topic, Payload: text, Retain: true}, nil)
	})
}

// watchCertificates calls tell for each file of which there is something new, and warns, until ctx
// ends.
func watchCertificates(ctx context.Context, files map[string]string, now func() time.Time, log *slog.Logger, tell func(topic string, text []byte)) {
	tick := time.NewTicker(expiryPeriod)
	defer tick.Stop()
	levels, told := make(map[string]int), make(map[string]string)
	for {
		for topic, file := range files {
			e, ok := expiryOf(file, now())
			if !ok {
				continue
			}
			if level := e.level(); level > levels[topic] {
				log.Warn("a certificate "+e.State, "file", file, "subject", e.Subject, "until", e.Until, "days", e.Days, "remedy", "renew it; gateway ca renew does it for those of gateway ca")
			}
			levels[topic] = e.level()
			text, err := json.Marshal(e)
			if err == nil && told[topic] != string(text) {
				told[topic] = string(text)
				tell(topic, text)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
