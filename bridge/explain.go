package bridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"gateway/broker/packet"
)

// Where a connection attempt has come to, for explain.
var (
	errHandshake  = errors.New("TLS")
	errUnanswered = errors.New("CONNECT")
)

// A refusal is a CONNACK that refuses the connection: a return code (3.1.1, 3.2.2.3), or a reason
// code with what the cloud says about it (5.0, 3.2.2.2).
type refusal struct {
	code    byte
	version packet.Version
	text    string
}

func (r refusal) Error() string {
	if r.version >= packet.V5 {
		return r.reason()
	}
	switch r.code {
	case 1:
		return "the cloud does not speak this version of MQTT"
	case 2:
		return "the cloud refuses the client identifier: check client_id"
	case 3:
		return "the cloud is up, but its MQTT service is not available"
	case 4:
		return "the cloud refuses user name or password: check both"
	case 5:
		return "the cloud does not authorise this client: check client_id, user name, password and certificate"
	}
	return fmt.Sprintf("the cloud refuses the connection with return code %d", r.code)
}

func (r refusal) reason() string {
	said := quoted(r.text)
	switch code := packet.ReasonCode(r.code); code {
	case packet.UnsupportedProtocolVersion:
		return "the cloud does not speak MQTT 5.0: set version: 3.1.1" + said
	case packet.ClientIDNotValid:
		return "the cloud refuses the client identifier: check client_id" + said
	case packet.BadUserNameOrPassword:
		return "the cloud refuses user name or password: check both" + said
	case packet.NotAuthorized, packet.Banned:
		return "the cloud does not authorise this client: check client_id, user name, password and certificate" + said
	default:
		return fmt.Sprintf("the cloud refuses the connection: %s%s", code, said)
	}
}

// A dismissal is a DISCONNECT of the cloud (5.0, 3.14).
type dismissal struct {
	reason packet.ReasonCode
	text   string
}

func (d dismissal) Error() string {
	said := quoted(d.text)
	switch d.reason {
	case packet.SessionTakenOver:
		return "the cloud has another connection with the same client_id: give each client its own" + said
	case packet.PacketTooLarge:
		return "the cloud ends the connection: it was sent a packet larger than it takes" + said
	}
	return fmt.Sprintf("the cloud ends the connection: %s%s", d.reason, said)
}

// blames reports whether the cloud ends the connection because of what it was sent.
func (d dismissal) blames() bool {
	switch d.reason {
	case packet.UnspecifiedError, packet.MalformedPacket, packet.ProtocolError, packet.ImplementationSpecificError,
		packet.NotAuthorized, packet.TopicNameInvalid, packet.PacketTooLarge, packet.QuotaExceeded,
		packet.AdministrativeAction, packet.PayloadFormatInvalid, packet.RetainNotSupported, packet.QoSNotSupported:
		return true
	}
	return false
}

// quoted returns what the cloud says, at most 200 bytes of it, as an addition to a sentence.
func quoted(text string) string {
	if text == "" {
		return ""
	}
	return fmt.Sprintf(" (it says %.200q)", text)
}

// An explained error says in one line what happened and what to do. It wraps its cause.
type explained struct {
	text  string
	cause error
}

func (e *explained) Error() string { return e.text }
func (e *explained) Unwrap() error { return e.cause }

// explain makes an error of a connection to t clear to the person who has to act. The text is
// the same for the same trouble: it has no port numbers or times of this moment.
func explain(t target, err error) error {
	if errors.Is(err, errLocal) {
		return err
	}
	text := explainTLS(t, err)
	if text == "" {
		text = explainNet(t, err)
	}
	if text == "" {
		text = withoutAddresses(err)
	}
	return &explained{t.address() + ": " + text, err}
}

func explainNet(t target, err error) string {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.Is(err, errReturn):
		return "a better URL can be reached again"
	case errors.Is(err, errProxy) && errors.Is(err, syscall.ECONNREFUSED):
		return "the proxy refuses the connection: check its address, and whether it runs"
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Sprintf("the host %q is not known: check the url and the DNS server of this machine", dns.Name)
	case errors.As(err, &dns):
		return fmt.Sprintf("the DNS server does not answer for %q: check the network of this machine", t.host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused: nothing listens there, check port and firewall, and whether the broker runs"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "no way to the host: check the network of this machine"
	case errors.Is(err, errSilent):
		return err.Error() + ": the line is stalled or the broker is overloaded"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time: check the network, a firewall that drops packets, and whether MQTT is spoken there"
	case closedByPeer(err) && errors.Is(err, errHandshake):
		return "the cloud closed the connection instead of speaking TLS: check that this is its TLS port (8883 as a rule)"
	case closedByPeer(err) && errors.Is(err, errUnanswered) && t.secure:
		return "the cloud closed the connection without an answer: check client_id and certificate"
	case closedByPeer(err) && errors.Is(err, errUnanswered):
		return "the cloud closed the connection without an answer: check client_id, and use mqtts:// if this is a TLS port"
	case closedByPeer(err):
		return "the cloud closed the connection"
	}
	return ""
}

func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func explainTLS(t target, err error) string {
	var (
		host    x509.HostnameError
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		record  tls.RecordHeaderError
		op      *net.OpError
	)
	switch {
	case errors.As(err, &host):
		c := host.Certificate
		if len(c.DNSNames) == 0 && len(c.IPAddresses) == 0 {
			return fmt.Sprintf("the cloud's certificate has only a common name (%q), which no longer counts: "+
				"issue it again with %q as subject alternative name, or set tls.verify_name: cn", c.Subject.CommonName, host.Host)
		}
		names := c.DNSNames
		for _, ip := range c.IPAddresses {
			names = append(names, ip.String())
		}
		return fmt.Sprintf("the cloud's certificate is for %s, not for %q: use one of these names in the url, or issue the certificate again",
			strings.Join(names, ", "), host.Host)
	case errors.As(err, &unknown):
		issuer := ""
		if unknown.Cert != nil {
			issuer = fmt.Sprintf(" (%q)", unknown.Cert.Issuer.CommonName)
		}
		return "the cloud's certificate is signed by an authority that is not known here" + issuer + ": check the CA file"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("the cloud's certificate is valid from %s to %s: it has expired, or the clock of this machine is wrong",
			invalid.Cert.NotBefore.UTC().Format(time.DateOnly), invalid.Cert.NotAfter.UTC().Format(time.DateOnly))
	case errors.As(err, &invalid):
		return "the cloud's certificate cannot be used: " + strings.TrimPrefix(invalid.Error(), "x509: ")
	case errors.As(err, &record):
		return "no TLS is spoken there: use mqtt:// for a plain port, or the TLS port (8883 as a rule)"
	case errors.As(err, &op) && op.Op == "remote error":
		return "the cloud refuses the TLS connection (" + strings.TrimPrefix(op.Err.Error(), "tls: ") + "): " +
			"check that it knows the authority of our certificate, and that the certificate is meant for clients"
	}
	return ""
}

// withoutAddresses returns the text of err without the addresses of a socket, which change at
// each connection.
func withoutAddresses(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}
