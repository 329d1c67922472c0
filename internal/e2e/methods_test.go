package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/auth/passwd"
	"gateway/broker/auth/scram"
	"gateway/broker/auth/totp"
	"gateway/broker/listen"
	"gateway/broker/packet"
	"gateway/internal/client"
	"gateway/offline"
)

// A house is a broker in this process that has every method of enhanced authentication, behind TCP,
// TLS, and WebSocket with TLS.
type house struct {
	t      *testing.T
	server *broker.Server
	users  *scram.Users
	codes  *totp.Secrets
	files  struct{ users, codes, passwords string }
	secret []byte            // of all one-time codes
	urls   map[string]string // by transport
	tls    *tls.Config
}

// A bouncer keeps out the user "banned", once it is known who it is.
type bouncer struct{}

func (bouncer) Knock(netip.Addr) error    { return nil }
func (bouncer) Enter(*auth.Attempt) error { return nil }

func (bouncer) Met(_ *auth.Attempt, c *auth.Client, _ bool) error {
	if c != nil && c.User == "banned" {
		return auth.ErrBanned
	}
	return nil
}

// people are who there is, each with the password "pencil".
var people = []string{"right", "expired", "revoked", "banned"}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, urls: make(map[string]string)}
	dir := t.TempDir()
	h.files.users, h.files.codes, h.files.passwords = filepath.Join(dir, "users"), filepath.Join(dir, "codes"), filepath.Join(dir, "passwords")
	text := totp.NewSecret()
	var err error
	check := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	h.secret, err = totp.ParseSecret(text)
	check()
	for _, name := range people {
		var keys []scram.Keys
		for _, hash := range scram.Hashes {
			k, err := scram.NewKeys(hash, "pencil", scram.MinIterations)
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, k)
		}
		var until time.Time
		if name == "expired" {
			until = time.Now().Add(-time.Minute)
		}
		err = scram.Set(h.files.users, name, until, keys...)
		check()
		err = totp.Set(h.files.codes, name, text)
		check()
		err = passwd.Set(h.files.passwords, name, []byte("pencil"), passwd.PBKDF2, 1000)
		check()
	}
	h.users, err = scram.Open(h.files.users, make([]byte, 32))
	check()
	h.codes, err = totp.Open(h.files.codes)
	check()
	passwords, err := passwd.Open(h.files.passwords, passwd.NewPool(2, 100))
	check()
	log := slog.New(slog.DiscardHandler)
	store, err := offline.Open(filepath.Join(dir, "store"), offline.Options{Log: log})
	check()
	h.server, err = broker.New(broker.Options{Store: store, Log: log, Door: bouncer{}})
	check()
	methods := []auth.Mechanism{&totp.Mechanism{Password: passwords, Secrets: h.codes}}
	for _, hash := range scram.Hashes {
		methods = append(methods, &scram.Mechanism{Hash: hash, Users: h.users})
	}
	a := newAuthority(t, "site")
	pair := a.valid("gateway")
	h.tls = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	h.tls.RootCAs.AddCert(a.cert)
	served := make(chan error, 2) // one for each listener
	for _, o := range []listen.Options{
		{Name: "plain", Address: "127.0.0.1:0", Protocols: listen.MQTT, Log: log},
		{Name: "secure", Address: "127.0.0.1:0", Protocols: listen.MQTT | listen.WebSocket, Log: log, WebSocket: listen.Web{Path: "/mqtt", MessageSize: 1 << 20}, TLS: &listen.Files{Cert: pair.cert, Key: pair.key}},
	} {
		ln, err := listen.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		address := ln.Addr().String()
		if o.Name == "plain" {
			h.urls["TCP"] = "mqtt://" + address
		} else {
			h.urls["TLS"], h.urls["WSS"] = "mqtts://"+address, "wss://"+address
		}
		go func() {
			served <- h.server.Serve(ln, broker.Listener{Name: o.Name, Auth: auth.Chain{}, Mechanisms: methods})
		}()
	}
	t.Cleanup(func() {
		for _, err := range []error{h.server.Close(), <-served, <-served, store.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return h
}

// prover returns the client's side of a method.
func (h *house) prover(method, name, password string, code time.Time) client.Prover {
	h.t.Helper()
	if method == totp.Name {
		p, err := totp.NewClient(name, password, totp.Code(h.secret, code))
		if err != nil {
			h.t.Fatal(err)
		}
		return p
	}
	hash, err := scram.ParseHash(method)
	if err != nil {
		h.t.Fatal(err)
	}
	p, err := scram.NewClient(hash, name, password)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

// A visit is one connection, of which the test has every byte.
type visit struct {
	t    *testing.T
	conn net.Conn
	dec  packet.Decoder
	seen []string // packets from the broker, as text
	last []byte   // the last of them
	data []byte   // its authentication data
}

func (h *house) visit(transport string, c *packet.Connect) *visit {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	conn, err := listen.Dial(ctx, h.urls[transport], h.tls)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	v := &visit{t: h.t, conn: conn, dec: packet.Decoder{Version: packet.V5}}
	v.send(c)
	return v
}

func (v *visit) send(p interface {
	Append([]byte, packet.Version) []byte
}) {
	v.t.Helper()
	if _, err := v.conn.Write(p.Append(nil, packet.V5)); err != nil {
		v.t.Fatal(err)
	}
}

// next reads one packet. It returns its type, 0 when the broker has closed the connection.
func (v *visit) next() packet.Type {
	v.t.Helper()
	v.last, v.data = nil, nil
	for {
		b := make([]byte, 1)
		if _, err := io.ReadFull(v.conn, b); err != nil {
			v.seen = append(v.seen, "closed")
			return 0
		}
		v.last = append(v.last, b[0])
		head, n, err := packet.ParseHeader(v.last)
		if err != nil {
			v.t.Fatal(err)
		}
		if n == 0 {
			continue
		}
		body := make([]byte, head.Length)
		if _, err := io.ReadFull(v.conn, body); err != nil {
			v.t.Fatal(err)
		}
		v.last = append(v.last, body...)
		v.describe(head, body)
		return head.Type
	}
}

func (v *visit) describe(head packet.Header, body []byte) {
	v.t.Helper()
	var reason packet.ReasonCode
	var err error
	switch head.Type {
	case packet.AUTH:
		var a packet.Auth
		a, err = v.dec.Auth(body)
		reason, v.data = a.Reason, a.Data
	case packet.CONNACK:
		var c packet.Connack
		c, err = v.dec.Connack(body)
		reason = c.Reason
		if c.Properties != nil {
			v.data = c.Properties.AuthData
		}
	case packet.DISCONNECT:
		var d packet.Disconnect
		d, err = v.dec.Disconnect(body)
		reason = d.Reason
	}
	if err != nil {
		v.t.Fatal(err)
	}
	v.seen = append(v.seen, fmt.Sprintf("%s %02x", head.Type, byte(reason)))
}

// login goes through an authentication.
func (h *house) login(transport string, p client.Prover) *visit {
	h.t.Helper()
	data, err := p.Next(nil)
	if err != nil {
		h.t.Fatal(err)
	}
	c := &packet.Connect{ClientID: "visitor " + rand.Text(), CleanStart: true} // each is its user's
	c.Properties.HasAuthMethod, c.Properties.AuthMethod, c.Properties.AuthData = true, p.Method(), data
	v := h.visit(transport, c)
	for {
		switch v.next() {
		case packet.AUTH:
			answer, err := p.Next(v.data)
			if err != nil {
				h.t.Fatal(err)
			}
			v.send(&packet.Auth{Reason: packet.ContinueAuthentication, Method: p.Method(), Data: answer})
		case packet.CONNACK:
			if len(v.data) > 0 {
				if _, err := p.Next(v.data); err != nil {
					h.t.Error(err)
				}
			}
			if v.seen[len(v.seen)-1] == "CONNACK 00" {
				if !p.Verified() {
					h.t.Error("let in, and the broker has not shown that it knows the user")
				}
				return v
			}
			refusal := v.last
			v.next()
			v.last = refusal
			return v
		default:
			return v
		}
	}
}

// Every outcome of every method over every transport, with the answers on the wire. What a client
// that is refused gets is the same, byte for byte, whatever is wrong with it.
func TestMethods(t *testing.T) {
	// A one-time code of a moment before the start counts for nothing: the next one does.
	soon := func() time.Time { return time.Now().Add(30 * time.Second) }
	for _, method := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", totp.Name} {
		for _, transport := range []string{"TCP", "TLS", "WSS"} {
			t.Run(method+"/"+transport, func(t *testing.T) {
				h := newHouse(t)
				const in, refused = "AUTH 18, CONNACK 00", "AUTH 18, CONNACK 87, closed"
				var refusals [][]byte
				for _, tt := range []struct {
					name, user, password string
					code                 time.Time
					want                 string
				}{
					{"right", "right", "pencil", soon(), in},
					{"wrong", "right", "pencils", soon(), refused},
					{"unknown", "nobody", "pencil", soon(), refused},
					{"expired", "expired", "pencil", soon().Add(-time.Hour), refused},
					{"banned", "banned", "pencil", soon(), "AUTH 18, CONNACK 8a, closed"},
				} {
					v := h.login(transport, h.prover(method, tt.user, tt.password, tt.code))
					v.expect(tt.name, tt.want)
					if tt.want == refused {
						refusals = append(refusals, v.last)
					}
				}
				v := h.login(transport, h.prover(method, "revoked", "pencil", soon()))
				v.expect("about to be revoked", in)
				h.revoke("revoked")
				v.next()
				v.next()
				v.expect("revoked", in+", DISCONNECT 87, closed")
				v = h.login(transport, h.prover(method, "revoked", "pencil", soon()))
				v.expect("revoked before", refused)
				for _, r := range append(refusals, v.last) {
					if !bytes.Equal(r, refusals[0]) {
						t.Errorf("one is refused with %x, another one with %x", refusals[0], r)
					}
				}
				h.absent(transport, method)
			})
		}
	}
}

func (v *visit) expect(what, want string) {
	v.t.Helper()
	if got := strings.Join(v.seen, ", "); got != want {
		v.t.Errorf("%s: got %s, want %s", what, got, want)
	}
}

// revoke takes a user out of the files, and does what the gateway does when it sees that.
func (h *house) revoke(name string) {
	h.t.Helper()
	if _, err := scram.Remove(h.files.users, name); err != nil {
		h.t.Fatal(err)
	}
	if _, err := totp.Remove(h.files.codes, name); err != nil {
		h.t.Fatal(err)
	}
	for _, look := range []func() ([]string, bool, error){h.users.Look, h.codes.Look} {
		gone, _, err := look()
		if err != nil || len(gone) != 1 || gone[0] != name {
			h.t.Fatalf("gone are %q, %v", gone, err)
		}
	}
	if n := h.server.Disconnect(func(c *auth.Client) bool { return c.User == name }, packet.NotAuthorized); n != 1 {
		h.t.Errorf("%d clients are disconnected, want 1", n)
	}
}

// absent leaves fields out.
func (h *house) absent(transport, method string) {
	h.t.Helper()
	const word = packet.ContinueAuthentication
	begin := func(method string, data []byte) *packet.Connect {
		c := &packet.Connect{ClientID: "visitor", CleanStart: true}
		c.Properties.HasAuthMethod, c.Properties.AuthMethod, c.Properties.AuthData = true, method, data
		return c
	}
	first, err := h.prover(method, "right", "pencil", time.Now()).Next(nil)
	if err != nil {
		h.t.Fatal(err)
	}
	noFirst := "CONNACK 87, closed"
	if method == totp.Name {
		noFirst = "AUTH 18, CONNACK 87, closed" // it is refused after the second factor
	}
	for _, tt := range []struct {
		name   string
		c      *packet.Connect
		answer *packet.Auth
		want   string
	}{
		{"no method", &packet.Connect{ClientID: "visitor", HasUsername: true, Username: "right", HasPassword: true, Password: []byte("pencil")}, nil, "CONNACK 86, closed"},
		{"an empty method", begin("", first), nil, "CONNACK 8c, closed"},
		{"an unknown method", begin("PLAIN", first), nil, "CONNACK 8c, closed"},
		{"no data", begin(method, nil), &packet.Auth{Reason: word, Method: method}, noFirst},
		{"empty data", begin(method, []byte{}), &packet.Auth{Reason: word, Method: method}, noFirst},
		{"no data in AUTH", begin(method, first), &packet.Auth{Reason: word, Method: method}, "AUTH 18, CONNACK 87, closed"},
		{"no method in AUTH", begin(method, first), &packet.Auth{Reason: word}, "AUTH 18, CONNACK 82, closed"},
		{"nothing in AUTH", begin(method, first), &packet.Auth{}, "AUTH 18, CONNACK 82, closed"},
	} {
		v := h.visit(transport, tt.c)
		if v.next() == packet.AUTH {
			v.send(tt.answer)
			v.next()
		}
		v.next()
		v.expect(tt.name, tt.want)
	}
}

// The shipped program: users that are made while it runs come in, others do not, and who is removed
// is disconnected within a second.
func TestMethodsOfProgram(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users")
	door := freeAddress(t)
	g := newGateway(t, fmt.Sprintf(`  - name: door
    address: %s
    methods: [SCRAM-SHA-256, SCRAM-SHA-512]
auth:
  scram_file: %s
`, door, users))
	text, err := os.ReadFile(g.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.config, bytes.Replace(text, []byte("gateway:\n"), []byte("gateway:\n  log: debug\n"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	g.start()
	secret := try(t, binary, "scram", "-g", users, "pump-1")
	address := "mqtt://" + door
	dial := func(h scram.Hash, password string) (*client.Client, error) {
		p, err := scram.NewClient(h, "pump-1", password)
		if err != nil {
			t.Fatal(err)
		}
		return client.Dial(t.Context(), address, client.Options{Version: packet.V5, Prover: p})
	}
	var c *client.Client
	eventually(t, 5*time.Second, "the new user comes in", func() (in bool) {
		var err error
		c, err = dial(scram.SHA256, secret)
		return err == nil
	})
	defer c.Close()
	for _, method := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
		try(t, binary, "pub", "--url", address, "--auth", method, "-u", "pump-1", "-P", secret, "a/b", "hello")
	}
	for _, tt := range []struct{ args, want string }{
		{"--auth SCRAM-SHA-256 -u pump-1 -P wrong", "Not authorized"},
		{"--auth SCRAM-SHA-256 -u pump-2 -P wrong", "Not authorized"},
		{"--auth SCRAM-SHA-1 -u pump-1 -P " + secret, "Bad authentication method"},
		{"-u pump-1 -P " + secret, "Bad User Name or Password"},
		{"-V 311 -u pump-1 -P " + secret, "Bad User Name or Password"},
	} {
		args := append([]string{"pub", "--url", address}, strings.Fields(tt.args)...)
		out, err := exec.CommandContext(t.Context(), binary, append(args, "a/b", "hello")...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s: %v, %s; want %q", tt.args, err, out, tt.want)
		}
	}
	if found := g.log.lines(secret); len(found) > 0 {
		t.Errorf("the log shows the secret: %q", found)
	}

	t.Run("reauthenticate", func(t *testing.T) {
		got := try(t, binary, "sub", "--url", address, "--auth", "SCRAM-SHA-256", "-u", "pump-1", "-P", secret, "--reauthenticate", "20ms", "-W", "500ms", "a/b")
		if got != "" || len(g.log.lines("authenticated again", "pump-1")) < 2 {
			t.Errorf("it printed %q, and has not authenticated again twice", got)
		}
	})
	t.Run("MQTT.js", func(t *testing.T) {
		node := mqttJS(t)
		for _, tt := range []struct{ password, want string }{{secret, "well"}, {"wrong", "Connection refused: Not authorized"}} {
			out, err := exec.CommandContext(t.Context(), node, "testdata/scram.mjs", address, "pump-1", tt.password).CombinedOutput()
			if got := strings.TrimSpace(string(out)); got != tt.want || (err == nil) != (tt.want == "well") {
				t.Errorf("with %.5s…: %v, %s", tt.password, err, got)
			}
		}
	})

	t.Run("guessing", func(t *testing.T) {
		for range 20 {
			p, err := scram.NewClient(scram.SHA256, "victim", "a guess")
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.Dial(t.Context(), address, client.Options{Version: packet.V5, Prover: p})
			var refusal *client.Error
			switch {
			case !errors.As(err, &refusal):
				t.Fatal(err)
			case refusal.Reason == packet.ConnectionRateExceeded:
				return
			case refusal.Reason != packet.NotAuthorized:
				t.Fatal(err)
			}
		}
		t.Error("a password can be guessed as often as one likes")
	})

	// What is told of a user that does not exist stays the same over a restart.
	stranger := func() string {
		v := (&house{t: t, urls: map[string]string{"TCP": address}}).visit("TCP", &packet.Connect{ClientID: "x", Properties: packet.ConnectProperties{
			HasAuthMethod: true, AuthMethod: "SCRAM-SHA-256", AuthData: []byte("n,,n=nobody,r=abc"),
		}})
		v.next()
		_, shown, _ := strings.Cut(string(v.data), ",")
		return shown
	}
	before := stranger()
	g.kill()
	g.start()
	if after := stranger(); after != before || before == "" {
		t.Errorf("of a user that does not exist is told %q, after a restart %q", before, after)
	}

	if c, err = dial(scram.SHA512, secret); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	removed := time.Now()
	try(t, binary, "scram", "-D", users, "pump-1")
	select {
	case <-c.Done():
		t.Logf("disconnected after %v: %v", time.Since(removed).Round(time.Millisecond), c.Err())
	case <-time.After(5 * time.Second):
		t.Error("a removed user stays connected")
	}
	if _, err := dial(scram.SHA256, secret); err == nil || !strings.Contains(err.Error(), "Not authorized") {
		t.Errorf("a removed user: %v", err)
	}
}

// A password alone does not open a listener that asks for a code as well, and a code opens it once.
func TestCodesOfProgram(t *testing.T) {
	dir := t.TempDir()
	passwords, codes, door := filepath.Join(dir, "passwords"), filepath.Join(dir, "codes"), freeAddress(t)
	try(t, binary, "passwd", "-b", passwords, "alice", "pencil")
	shown, _, _ := strings.Cut(try(t, binary, "totp", codes, "alice"), "\n")
	secret, err := totp.ParseSecret(shown)
	if err != nil {
		t.Fatal(err)
	}
	newGateway(t, fmt.Sprintf(`  - name: door
    address: %s
    methods: [PASSWORD-TOTP]
auth:
  password_file: %s
  totp_file: %s
`, door, passwords, codes)).start()
	code := totp.Code(secret, time.Now().Add(30*time.Second)) // those of before the start count for nothing
	for _, tt := range []struct{ args, want string }{
		{"-P pencil", "Bad User Name or Password"},
		{"--auth PASSWORD-TOTP -P pencil", "Not authorized"},
		{"--auth PASSWORD-TOTP -P pencil --code 12345x", "Not authorized"},
		{"--auth PASSWORD-TOTP -P pencils --code " + code, "Not authorized"},
		{"--auth PASSWORD-TOTP -P pencil --code " + code, ""},
		{"--auth PASSWORD-TOTP -P pencil --code " + code, "Not authorized"},
	} {
		args := append([]string{"pub", "--url", "mqtt://" + door, "-u", "alice"}, strings.Fields(tt.args)...)
		out, err := exec.CommandContext(t.Context(), binary, append(args, "a/b", "hello")...).CombinedOutput()
		if (err == nil) != (tt.want == "") || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s: %v, %s; want %q", tt.args, err, out, tt.want)
		}
	}
}
