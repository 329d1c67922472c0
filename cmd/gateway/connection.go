package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"gateway/broker/auth/scram"
	"gateway/broker/auth/totp"
	"gateway/broker/packet"
	"gateway/internal/client"
)

// A connection is what the commands that are MQTT clients have in common: where the broker is
// and how to log in. The short flags are those of mosquitto_pub, -h included.
type connection struct {
	url, host, port    string
	id, user, password string
	method, code       string
	version            protocol
	cafile, cert, key  string
	keepAlive          uint16
	timeout            time.Duration
}

func (f *connection) register(cmd *cobra.Command) {
	f.version = protocol(packet.V5)
	flags := cmd.Flags()
	flags.StringVar(&f.url, "url", "", "broker as mqtt, mqtts, ws or wss://HOST:PORT, or unix:///PATH")
	flags.StringVarP(&f.host, "host", "h", "127.0.0.1", "broker's host")
	flags.StringVarP(&f.port, "port", "p", "", "broker's port (default 1883, with TLS 8883)")
	flags.StringVarP(&f.id, "id", "i", "", "client identifier (default: the broker gives one)")
	flags.StringVarP(&f.user, "username", "u", "", "user name")
	flags.StringVarP(&f.password, "password", "P", "", "password")
	flags.StringVar(&f.method, "auth", "", "authentication method for user name and password: SCRAM-SHA-512, SCRAM-SHA-256, SCRAM-SHA-1 or PASSWORD-TOTP")
	flags.StringVar(&f.code, "code", "", "one-time code, with --auth PASSWORD-TOTP")
	flags.VarP(&f.version, "protocol", "V", "MQTT version: 5 or 311")
	flags.StringVar(&f.cafile, "cafile", "", "certificate authority that the broker must be signed by; asks for TLS")
	flags.StringVar(&f.cert, "cert", "", "own certificate, for mutual TLS")
	flags.StringVar(&f.key, "key", "", "private key of --cert")
	flags.Uint16VarP(&f.keepAlive, "keepalive", "k", 60, "seconds between signs of life")
	flags.DurationVar(&f.timeout, "timeout", 5*time.Second, "how long to wait for the broker's answers")

	// -h is the host here, as in mosquitto_pub. Alone it can only be a call for help.
	flags.Bool("help", false, "help for "+cmd.Name())
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var value interface{ GetSpecifiedName() string } // the value of this flag is missing
		if errors.As(err, &value) && value.GetSpecifiedName() == "h" {
			return cmd.Help()
		}
		return usageError{err}
	})
}

// address returns the URL of the broker.
func (f *connection) address() (string, error) {
	if f.url != "" {
		if u, err := url.Parse(f.url); err != nil || u.Hostname() == "" && (u.Scheme != "unix" || u.Path == "") {
			return "", usageError{fmt.Errorf("--url %q: want mqtt, mqtts, ws or wss://HOST:PORT, or unix:///PATH", f.url)}
		}
		return f.url, nil
	}
	scheme, port := "mqtt", "1883"
	if f.cafile != "" || f.cert != "" {
		scheme, port = "mqtts", "8883"
	}
	if f.port != "" {
		port = f.port
	}
	return scheme + "://" + net.JoinHostPort(f.host, port), nil
}

// dial connects. o has what is particular to the command.
func (f *connection) dial(ctx context.Context, o client.Options) (*client.Client, error) {
	address, err := f.address()
	if err != nil {
		return nil, err
	}
	o.ClientID, o.Version, o.KeepAlive = f.id, packet.Version(f.version), f.keepAlive
	if o.Prover, err = f.prover(); err != nil {
		return nil, usageError{err}
	}
	if o.Prover == nil {
		o.Username, o.Password = f.user, f.password
	}
	if o.TLS, err = f.tls(); err != nil {
		return nil, usageError{err}
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	c, err := client.Dial(ctx, address, o)
	if err != nil {
		return nil, f.explain(address, err)
	}
	return c, nil
}

// prover returns the client's side of the authentication method, nil for none.
func (f *connection) prover() (client.Prover, error) {
	switch {
	case f.method == "" && f.code == "":
		return nil, nil
	case f.version != protocol(packet.V5):
		return nil, errors.New("--auth: methods are of MQTT 5")
	case f.method == totp.Name:
		return totp.NewClient(f.user, f.password, f.code)
	case f.code != "":
		return nil, errors.New("--code is for --auth " + totp.Name)
	}
	h, err := scram.ParseHash(f.method)
	if err != nil {
		return nil, fmt.Errorf("--auth: %w", err)
	}
	c, err := scram.NewClient(h, f.user, f.password)
	if err != nil {
		return nil, fmt.Errorf("--auth %s: %w", h, err)
	}
	return c, nil
}

// reauthenticate authenticates again.
func (f *connection) reauthenticate(ctx context.Context, c *client.Client) error {
	p, err := f.prover()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	return c.Reauthenticate(ctx, p)
}

func (f *connection) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.cafile != "" {
		pem, err := os.ReadFile(f.cafile)
		if err != nil {
			return nil, fmt.Errorf("--cafile: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--cafile %s: no certificate in PEM form in it", f.cafile)
		}
	}
	if (f.cert == "") != (f.key == "") {
		return nil, errors.New("--cert and --key go together")
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("--cert, --key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// explain says in plain words why there is no connection, and what to do about it.
func (f *connection) explain(address string, err error) error {
	u, parseErr := url.Parse(address)
	if parseErr != nil {
		return err
	}
	host, silent := cmp.Or(u.Host, u.Path), "if it expects TLS, use mqtts:// or --cafile"
	if u.Scheme != "mqtt" && u.Scheme != "tcp" {
		silent = "is this its port for " + u.Scheme + "://?"
	}
	var (
		unknown  *net.DNSError
		badCert  *tls.CertificateVerificationError
		noTLS    tls.RecordHeaderError
		alert    *net.OpError
		refusal  *client.Error
		netError net.Error
	)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("no gateway answers at %s: is it running? start one with \"gateway run FILE\"", host)
	case errors.As(err, &unknown):
		return fmt.Errorf("the host %q is not known: check the name and the DNS server", unknown.Name)
	case errors.As(err, &badCert):
		return fmt.Errorf("the certificate of %s is not trusted: %w; --cafile names the authority to trust", host, badCert.Err)
	case errors.As(err, &noTLS):
		return fmt.Errorf("%s does not speak TLS: use mqtt:// or ws:// and no --cafile, or its TLS port", host)
	case errors.As(err, &alert) && alert.Op == "remote error": // as crypto/tls calls an alert
		return fmt.Errorf("%s refuses the TLS connection (%w): --cert and --key name the certificate to show", host, alert.Err)
	case errors.As(err, &refusal):
		return fmt.Errorf("%s refuses the connection: %w", host, refusal)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%s closed the connection without an answer: %s", host, silent)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netError) && netError.Timeout():
		return fmt.Errorf("%s does not answer within %v", host, f.timeout)
	}
	return err
}

// A protocol is an MQTT version as it is typed.
type protocol packet.Version

func (p *protocol) Set(s string) error {
	switch s {
	case "5", "5.0", "mqttv5":
		*p = protocol(packet.V5)
	case "311", "3.1.1", "4", "mqttv311":
		*p = protocol(packet.V311)
	default:
		return errors.New("want 5 or 311")
	}
	return nil
}

func (p *protocol) String() string {
	if packet.Version(*p) == packet.V311 {
		return "311"
	}
	return "5"
}

func (p *protocol) Type() string { return "version" }

// A qos is a quality of service level as it is typed.
type qos packet.QoS

func (q *qos) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 2)
	if err != nil || n > 2 {
		return errors.New("want 0, 1 or 2")
	}
	*q = qos(n)
	return nil
}

func (q *qos) String() string { return strconv.Itoa(int(*q)) }

func (q *qos) Type() string { return "level" }
