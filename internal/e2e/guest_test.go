package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"gateway/broker/listen"
	"gateway/broker/packet"
	"gateway/internal/client"
)

// A guest is what a client shows to be let in.
type guest struct {
	id               string // empty: table
	user, password   string
	noName, noSecret bool // the field is left out of CONNECT
	pair             pair // of its certificate
	// prover makes the client's side of an authentication method, for a transport.
	prover func(transport string) client.Prover
}

// A script is a client's side of an authentication that says what it is told to say.
type script struct {
	method string
	first  []byte
	then   func(challenge []byte) []byte
}

func (s *script) Method() string { return s.method }
func (s *script) Verified() bool { return true }
func (s *script) Next(challenge []byte) ([]byte, error) {
	if challenge == nil {
		return s.first, nil
	}
	return s.then(challenge), nil
}

// connect returns the guest's CONNECT, and its prover, nil without one.
func (g *guest) connect(transport string, v packet.Version) (*packet.Connect, client.Prover, error) {
	c := &packet.Connect{Version: v, ClientID: fmt.Sprintf("table %.20x", g.user), CleanStart: true} // each user's own
	if g.id != "" {
		c.ClientID = g.id
	}
	if g.prover == nil || v != packet.V5 {
		c.HasUsername, c.Username = !g.noName, g.user
		c.HasPassword, c.Password = !g.noSecret, []byte(g.password)
		return c, nil, nil
	}
	p := g.prover(transport)
	data, err := p.Next(nil)
	c.Properties.HasAuthMethod, c.Properties.AuthMethod, c.Properties.AuthData = true, p.Method(), data
	return c, p, err
}

// ask lets a guest connect. It returns what came back, in hexadecimal digits, a line for each packet and one
// for the end, and what has to come back for an answer of the table.
func ask(t *testing.T, url, transport string, roots *x509.CertPool, v packet.Version, g guest, want string) (got, exact string) {
	t.Helper()
	config := &tls.Config{RootCAs: roots}
	if g.pair.cert != "" {
		certificate, err := tls.LoadX509KeyPair(g.pair.cert, g.pair.key)
		if err != nil {
			t.Fatal(err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := listen.Dial(ctx, url, config)
	if err != nil {
		return end(err), want
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	c, prover, err := g.connect(transport, v)
	if err != nil {
		t.Fatal(err)
	}
	// After a handshake of TLS 1.3 the client does not know yet whether the server takes its certificate.
	if !strings.HasPrefix(want, "tls:") {
		if _, err := conn.Write(c.Append(nil, v)); err != nil {
			t.Fatal(err)
		}
	}
	var lines, wanted []string
	var last []byte // data of an authentication
	for {
		p, err := readPacket(conn)
		if err != nil {
			lines = append(lines, end(err))
			break
		}
		lines = append(lines, hex.EncodeToString(p))
		kind, data := authData(t, v, p)
		last = data
		if kind == packet.AUTH {
			wanted = append(wanted, hex.EncodeToString(challenge(prover.Method(), data)))
			answer, err := prover.Next(data)
			if err != nil {
				t.Fatal(err)
			}
			a := &packet.Auth{Reason: packet.ContinueAuthentication, Method: prover.Method(), Data: answer}
			if _, err := conn.Write(a.Append(nil, v)); err != nil {
				t.Fatal(err)
			}
		} else if p[3] == 0 {
			break
		}
	}
	if prover == nil {
		return strings.Join(lines, "\n"), strings.Join(append(wanted, reply(v, want, "", nil)...), "\n")
	}
	if want == in {
		if _, err := prover.Next(last); err != nil || !prover.Verified() {
			t.Errorf("let in, and the gateway has not shown that it knows the user: %v", err)
		}
	}
	return strings.Join(lines, "\n"), strings.Join(append(wanted, reply(v, want, prover.Method(), last)...), "\n")
}

// readPacket reads one packet as it is on the wire.
func readPacket(r io.Reader) ([]byte, error) {
	var p []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		p = append(p, b[0])
		h, n, err := packet.ParseHeader(p)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			continue
		}
		p = append(p, make([]byte, h.Length)...)
		_, err = io.ReadFull(r, p[n:])
		return p, err
	}
}

// authData returns which packet it is, and what an authentication has in it.
func authData(t *testing.T, v packet.Version, p []byte) (packet.Type, []byte) {
	t.Helper()
	h, n, _ := packet.ParseHeader(p)
	d := packet.Decoder{Version: v}
	switch h.Type {
	case packet.AUTH:
		a, err := d.Auth(p[n:])
		if err != nil {
			t.Fatal(err)
		}
		return h.Type, a.Data
	case packet.CONNACK:
		c, err := d.Connack(p[n:])
		if err != nil {
			t.Fatal(err)
		}
		if c.Properties != nil {
			return h.Type, c.Properties.AuthData
		}
	default:
		t.Fatalf("%v instead of CONNACK", h.Type)
	}
	return h.Type, nil
}

// end says how a connection has ended.
func end(err error) string {
	_, alert, ok := strings.Cut(err.Error(), "remote error: ")
	switch {
	case ok:
		alert, _, _ = strings.Cut(alert, "\n")
		return alert
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return closed
	}
	return err.Error()
}

// The identifiers of properties that the answers have (5.0, 2.2.2.2).
const (
	idAuthMethod     = 0x15
	idAuthData       = 0x16
	idReasonString   = 0x1f
	idReceiveMaximum = 0x21
	idTopicAliases   = 0x22
	idPacketSize     = 0x27
)

// whys are the reason strings of the refusals.
var whys = map[string]string{
	bad5:    "Bad User Name or Password: bad user name or password [3.1.4]",
	not5:    "Not authorized: not authorized [3.1.4]",
	later5:  "Server unavailable: authentication is not available for now [3.1.4]",
	banned5: "Banned: banned [3.1.4]",
}

// reply returns the CONNACK for an answer of the table, and what comes after it. The bytes are put together
// here from the standard, not by the gateway's own codec.
func reply(v packet.Version, answer, method string, data []byte) []string {
	code, err := hex.DecodeString(answer)
	if err != nil || len(code) != 1 {
		return []string{answer}
	}
	after := []string{closed}
	if answer == in {
		after = nil
	}
	body := []byte{0, code[0]}
	if v == packet.V5 {
		var props []byte
		if answer == in {
			props = welcome(method, data)
		} else {
			props = text(nil, idReasonString, whys[answer])
		}
		body = append(append(body, byte(len(props))), props...)
	}
	return append([]string{hex.EncodeToString(append([]byte{0x20, byte(len(body))}, body...))}, after...)
}

// challenge returns an AUTH with Continue authentication.
func challenge(method string, data []byte) []byte {
	props := text(text(nil, idAuthMethod, method), idAuthData, string(data))
	return append([]byte{0xf0, byte(2 + len(props)), 0x18, byte(len(props))}, props...)
}

// text appends a property that is a text or has binary data.
func text(dst []byte, id byte, s string) []byte {
	return append(append(dst, id, byte(len(s)>>8), byte(len(s))), s...)
}

// welcome returns the properties of a CONNACK that lets in, with the limits that are not configured.
func welcome(method string, data []byte) []byte {
	props := []byte{idReceiveMaximum, 500 >> 8, 500 & 0xff, idPacketSize, 0, 256 << 10 >> 16, 0, 0, idTopicAliases, 0, 32}
	if method != "" {
		props = text(props, idAuthMethod, method)
	}
	if len(data) > 0 {
		props = text(props, idAuthData, string(data))
	}
	return props
}
