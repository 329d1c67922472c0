package bridge

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// tlsCloud shakes hands with all who come, and closes the connection.
func tlsCloud(t *testing.T, c *tls.Config) string {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", c)
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	})
	t.Cleanup(func() { ln.Close(); wait.Wait() })
	return "mqtts://" + ln.Addr().String()
}

// Each trouble with TLS gives one line that says what to do.
func TestTLSTroubleIsExplained(t *testing.T) {
	ours, theirs := newAuthority(t, "our CA"), newAuthority(t, "their CA")
	server := ours.issue("cloud.example.org")
	client := ours.issue("site")
	mutual := &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ours.pool()}
	presenting := func(c tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: ours.pool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }}
	}
	trusting := &tls.Config{RootCAs: ours.pool()}
	for _, tt := range []struct {
		name           string
		server, client *tls.Config
		want           []string
	}{
		{"other host", &tls.Config{Certificates: []tls.Certificate{ours.issue("x", otherHost)}}, trusting,
			[]string{`is for other.example.org, not for "127.0.0.1"`, "use one of these names"}},
		{"common name only", &tls.Config{Certificates: []tls.Certificate{ours.issue("127.0.0.1", cnOnly)}}, trusting,
			[]string{"only a common name", "subject alternative name"}},
		{"other authority", &tls.Config{Certificates: []tls.Certificate{theirs.issue("x")}}, trusting,
			[]string{`not known here ("their CA")`, "check the CA file"}},
		{"expired", &tls.Config{Certificates: []tls.Certificate{ours.issue("x", expired)}}, trusting,
			[]string{"valid from 2020-01-01 to 2020-02-01", "clock of this machine"}},
		{"without our certificate", mutual, trusting,
			[]string{"the cloud refuses the TLS connection (certificate required)"}},
		{"our certificate of another authority", mutual, presenting(theirs.issue("site")),
			[]string{"the cloud refuses the TLS connection", "knows the authority of our certificate"}},
		{"our certificate for servers", mutual, presenting(ours.issue("site", serverOnly)),
			[]string{"the cloud refuses the TLS connection", "meant for clients"}},
		{"own certificate expired", mutual, &tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{ours.issue("site", expired)}},
			[]string{`own certificate "site" expired at 2020-02-01T00:00:00Z: renew it`}},
		{"own certificate not yet valid", mutual, &tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{ours.issue("site", notYet)}},
			[]string{`own certificate "site" is valid from`, "set the clock"}},
		{"after a good handshake", mutual, &tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{client}},
			[]string{"closed the connection without an answer: check client_id and certificate"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t, 0)
			config := testConfig(t, l, tlsCloud(t, tt.server))
			config.TLS = func() (*tls.Config, error) { return tt.client, nil }
			explains(t, config, tt.want...)
		})
	}
}

// explains runs a bridge until its last error says all that is wanted, in one line.
func explains(t *testing.T, c Config, want ...string) {
	t.Helper()
	b, _ := start(t, c)
	eventually(t, strings.Join(want, ", "), func() bool {
		said := b.State().LastError
		for _, w := range want {
			if !strings.Contains(said, w) {
				return false
			}
		}
		return !strings.Contains(said, "\n")
	})
}

func TestNetworkTroubleIsExplained(t *testing.T) {
	l := newLedger(t, 0)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	c := testConfig(t, l, "mqtt://"+ln.Addr().String())
	explains(t, c, "connection refused", "check port and firewall")
}

func TestPlainPort(t *testing.T) {
	http := strings.Replace(play(t, "485454502f312e31"), "mqtt:", "mqtts:", 1)
	explains(t, testConfig(t, newLedger(t, 0), http), "no TLS is spoken there")
}

// A certificate file that cannot be read is asked for again at each try.
func TestUnreadableCertificate(t *testing.T) {
	c := testConfig(t, newLedger(t, 0), "mqtts://127.0.0.1:1")
	asked := make(chan struct{}, 3)
	c.TLS = func() (*tls.Config, error) {
		select {
		case asked <- struct{}{}:
		default:
		}
		return nil, errors.New("open site.crt: no such file")
	}
	explains(t, c, "certificates: open site.crt: no such file")
	for range cap(asked) {
		<-asked
	}
}

func TestExplainTable(t *testing.T) {
	to := target{host: "cloud", port: "1883"}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&net.DNSError{Name: "cloud", IsNotFound: true}, `the host "cloud" is not known: check the url`},
		{&net.DNSError{Name: "cloud", IsTimeout: true}, "the DNS server does not answer"},
		{&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, "no way to the host"},
		{&net.OpError{Op: "dial", Err: syscall.ENETUNREACH}, "no way to the host"},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, "the cloud closed the connection"},
		{&net.OpError{Op: "read", Source: &net.TCPAddr{Port: 12345}, Err: syscall.ENOBUFS}, "cloud:1883: read: no buffer space available"},
		{x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.NotAuthorizedToSign}, "cannot be used"},
	} {
		if got := explain(to, tt.err); !strings.Contains(got.Error(), tt.want) || !errors.Is(got, tt.err) {
			t.Errorf("%v is explained as %q, want %q and the cause wrapped", tt.err, got, tt.want)
		}
	}
}
