package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// A hall is a gateway whose clients log in with passwords or certificates, and have rules.
type hall struct {
	*gateway
	ca                 *authority
	urls               map[string]string // by listener and transport
	passwords, aclFile string
}

func newHall(t *testing.T) *hall {
	t.Helper()
	h := &hall{ca: newAuthority(t, "hall"), urls: make(map[string]string)}
	server, dir := h.ca.valid("gateway"), t.TempDir()
	h.passwords, h.aclFile = filepath.Join(dir, "passwords"), filepath.Join(dir, "acl")
	for _, user := range []string{"anna", "ben", "root"} {
		try(t, binary, "passwd", "-I", "100", "-b", h.passwords, user, "pencil")
	}
	h.write(h.aclFile, "topic write from/nobody\nuser anna\ntopic readwrite anna/#\npattern write of/%u\n")
	ways := map[string]string{
		"passwords": "auth: passwords", "either": "auth: [certificate, passwords]", "nobody too": "auth: passwords\n    anonymous: true",
	}
	text := ""
	for _, name := range []string{"passwords", "either", "nobody too"} {
		plain, secure := freeAddress(t), freeAddress(t)
		tls := fmt.Sprintf("tls: {cert: %s, key: %s, client_ca: %s}", server.cert, server.key, h.ca.file)
		if name != "either" {
			text += fmt.Sprintf("  - name: %s\n    address: %s\n    protocols: mqtt\n    %s\n", name, plain, ways[name])
			h.urls[name+" TCP"] = "mqtt://" + plain
		}
		text += fmt.Sprintf("  - name: %s tls\n    address: %s\n    protocols: [mqtt, websocket]\n    %s\n    %s\n", name, secure, ways[name], tls)
		h.urls[name+" TLS"], h.urls[name+" WSS"] = "mqtts://"+secure, "wss://"+secure
	}
	h.gateway = newGateway(t, text+fmt.Sprintf(`auth:
  password_file: %s
  acl_file: %s
  super_users: root
  rules:
    - {deny: publish, topics: anna/never}
    - {allow: [publish, subscribe], topics: "ben/#", users: ben, max_qos: 1, retain: false}
    - {allow: [publish, subscribe], topics: ["#", "$SYS/#"], listeners: local}
    - {allow: publish, topics: "certified/%%u", certificates: CN=device}
limits: {failed_logins: 1000}
`, h.passwords, h.aclFile))
	h.start()
	return h
}

func (h *hall) write(path, text string) {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		panic(err)
	}
}

// dial connects a client, and returns the reason when it may not come in.
func (h *hall) dial(t *testing.T, url string, o client.Options) (*client.Client, packet.ReasonCode) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if o.TLS == nil {
		o.TLS = &tls.Config{RootCAs: h.ca.client(h.ca.valid("gateway")).RootCAs}
	}
	c, err := client.Dial(ctx, url, o)
	if refused, ok := errors.AsType[*client.Error](err); ok {
		return nil, refused.Reason
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, 0
}

// TestLogins lets clients in at listeners with more than one way to log in, in each version over each
// transport.
func TestLogins(t *testing.T) {
	h := newHall(t)
	certified := h.ca.client(h.ca.valid("device"))
	const in, bad = packet.Success, packet.BadUserNameOrPassword
	for _, tt := range []struct {
		listener, name string
		o              client.Options
		want           packet.ReasonCode
	}{
		{"passwords", "certificate instead", client.Options{TLS: certified}, bad},
		{"either", "password", client.Options{Username: "anna", Password: "pencil"}, in},
		{"either", "wrong password", client.Options{Username: "anna", Password: "x"}, bad},
		{"either", "certificate", client.Options{TLS: certified}, in},
		{"either", "certificate and another's name", client.Options{TLS: certified, Username: "anna", Password: "x"}, in},
		{"either", "neither", client.Options{}, bad},
		{"nobody too", "neither", client.Options{}, in},
		{"nobody too", "right", client.Options{Username: "anna", Password: "pencil"}, in},
		{"nobody too", "wrong", client.Options{Username: "anna", Password: "x"}, bad},
		{"nobody too", "unknown", client.Options{Username: "nobody", Password: "pencil"}, bad},
	} {
		for _, transport := range []string{"TCP", "TLS", "WSS"} {
			url := h.urls[tt.listener+" "+transport]
			if url == "" || transport == "TCP" && tt.o.TLS != nil {
				continue // without TLS there are no certificates
			}
			for _, v := range []packet.Version{packet.V311, packet.V5} {
				o := tt.o
				o.Version, o.ClientID = v, "table"
				c, got := h.dial(t, url, o)
				if got != tt.want {
					t.Errorf("%s, %s, %s, version %d: %v, want %v", tt.listener, tt.name, transport, v, got, tt.want)
				}
				if c != nil {
					c.Close()
				}
			}
		}
	}
}

// TestRevoked removes users and changes rules while clients are there.
func TestRevoked(t *testing.T) {
	h := newHall(t)
	url := h.urls["passwords TCP"]
	login := func(user string, v packet.Version) *client.Client {
		t.Helper()
		c, reason := h.dial(t, url, client.Options{ClientID: fmt.Sprint(user, v), Username: user, Password: "pencil", Version: v})
		if c == nil {
			t.Fatal(reason)
		}
		return c
	}
	anna, old, ben := login("anna", packet.V5), login("anna", packet.V311), login("ben", packet.V5)
	begin := time.Now()
	try(t, binary, "passwd", "-D", h.passwords, "anna")
	for _, c := range []*client.Client{anna, old} {
		select {
		case <-c.Done():
		case <-time.After(5 * time.Second):
			t.Fatal("a client whose user is removed stays")
		}
	}
	if took := time.Since(begin); took > 1500*time.Millisecond {
		t.Errorf("clients of a removed user were disconnected after %v", took)
	}
	if gone, ok := errors.AsType[*client.Error](anna.Err()); !ok || gone.Reason != packet.NotAuthorized {
		t.Errorf("disconnected with %v", anna.Err())
	}
	if _, got := h.dial(t, url, client.Options{Username: "anna", Password: "pencil"}); got != packet.BadUserNameOrPassword {
		t.Errorf("a removed user: %v", got)
	}
	if reason, err := ben.Publish(t.Context(), packet.Publish{Topic: "new/topic", QoS: 1}); reason != packet.NotAuthorized {
		t.Errorf("%v, %v", reason, err)
	}
	h.write(h.aclFile, "user ben\ntopic new/topic\n")
	eventually(t, 5*time.Second, "the new rules are in force", func() bool {
		reason, err := ben.Publish(t.Context(), packet.Publish{Topic: "new/topic", QoS: 1})
		return err == nil && !reason.Failed()
	})
}

// TestExplained asks "gateway explain" and the gateway that runs the same questions: both have the
// same answer, with the same reason.
func TestExplained(t *testing.T) {
	h := newHall(t)
	told := make(chan string, 100) // one a second
	watch := h.connect(client.Options{Receive: func(p packet.Publish) { told <- string(p.Payload) }})
	if _, err := watch.Subscribe(t.Context(), packet.Subscription{Filter: "$SYS/broker/last_denied"}); err != nil {
		t.Fatal(err)
	}
	last := ""
	for _, who := range []struct {
		user string
		o    client.Options
		args []string
	}{
		{"anna", client.Options{Username: "anna", Password: "pencil"}, []string{"--user", "anna"}},
		{"ben", client.Options{Username: "ben", Password: "pencil"}, []string{"--user", "ben"}},
		{"root", client.Options{Username: "root", Password: "pencil"}, []string{"--user", "root"}},
		{"nobody", client.Options{}, nil},
	} {
		who.o.ClientID, who.o.Version = "asks "+who.user, packet.V5
		c, reason := h.dial(t, h.urls["nobody too TCP"], who.o)
		if c == nil {
			t.Fatal(reason)
		}
		for _, q := range []struct {
			action, topic string
			qos           packet.QoS
			retain        bool
		}{
			{"publish", "anna/a", 1, false}, {"publish", "anna/never", 1, false}, {"publish", "ben/a", 1, false}, {"publish", "ben/a", 2, false},
			{"publish", "ben/a", 1, true}, {"publish", "of/anna", 1, false}, {"publish", "from/nobody", 1, false}, {"publish", "other", 2, true},
			{"publish", "certified/anna", 1, false}, {"subscribe", "#", 0, false}, {"subscribe", "ben/+", 1, false}, {"subscribe", "$SYS/#", 2, false},
		} {
			args := slices.Concat([]string{"explain", "--listener", "nobody too", "--client", "asks " + who.user, "--qos", fmt.Sprint(q.qos)}, who.args)
			if q.retain {
				args = append(args, "--retain")
			}
			answer := try(t, binary, append(args, q.action, q.topic, h.config)...)
			word, why, _ := strings.Cut(answer, ": ")
			var err error
			if q.action == "publish" {
				_, err = c.Publish(t.Context(), packet.Publish{Topic: q.topic, QoS: q.qos, Retain: q.retain})
			} else {
				var reasons []packet.ReasonCode
				if reasons, err = c.Subscribe(t.Context(), packet.Subscription{Filter: q.topic, QoS: q.qos}); err == nil && reasons[0].Failed() {
					err = &client.Error{Reason: reasons[0]}
				}
			}
			denied, _ := errors.AsType[*client.Error](err)
			switch {
			case err != nil && denied == nil:
				t.Fatal(err)
			case (word == "allowed") != (denied == nil):
				t.Errorf("%s, %v: explained as %q, but the gateway says %v", who.user, q, answer, err)
			case denied != nil && denied.Reason != packet.NotAuthorized:
				t.Errorf("%s, %v: %v", who.user, q, err)
			case denied != nil:
				last = why
			}
		}
		c.Close()
	}
	timeout := time.After(10 * time.Second)
	for {
		select {
		case text := <-told:
			var d struct{ Reason string }
			if err := json.Unmarshal([]byte(text), &d); err != nil {
				t.Fatal(err)
			}
			if d.Reason == last {
				return
			}
		case <-timeout:
			t.Fatalf("nobody is told of the last denial: %s", last)
		}
	}
}

// TestRevokedCertificate makes certificates as a user does, and takes one back while its client is
// there.
func TestRevokedCertificate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	ca := func(args ...string) { try(t, binary, append([]string{"ca", "--dir", dir}, args...)...) }
	ca("init")
	ca("server", "localhost", "127.0.0.1")
	for _, name := range []string{"good", "stolen", "never"} {
		ca("client", name)
	}
	ca("revoke", "never")
	address := freeAddress(t)
	g := newGateway(t, fmt.Sprintf(`  - name: devices
    address: %s
    protocols: [mqtt, websocket]
    tls: {cert: %[2]s/localhost.crt, key: %[2]s/localhost.key, client_ca: %[2]s/ca.crt, crl: %[2]s/ca.crl, require_certificate: true}
    names: {client_id: "cert-{CN}"}
auth:
  rules: [{allow: publish, topics: "%%u/%%c"}]
`, address, dir))
	g.start()
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	dial := func(name, scheme string, v packet.Version) (*client.Client, error) {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := client.Dial(ctx, scheme+"://"+address, client.Options{ClientID: "own", Version: v, TLS: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}})
		if err == nil {
			t.Cleanup(c.Close)
		}
		return c, err
	}
	good, err := dial("good", "mqtts", packet.V5)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := good.Publish(t.Context(), packet.Publish{Topic: "good/cert-good", QoS: 1}); err != nil {
		t.Errorf("to a topic of its own: %v", err)
	}
	if reason, _ := good.Publish(t.Context(), packet.Publish{Topic: "good/own", QoS: 1}); reason != packet.NotAuthorized {
		t.Errorf("to a topic of the identifier that it would like: %v", reason)
	}
	if _, err := dial("never", "mqtts", packet.V5); err == nil {
		t.Error("a revoked certificate came in")
	}
	stolen, err := dial("stolen", "wss", packet.V311)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	ca("revoke", "stolen")
	select {
	case <-stolen.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("a client whose certificate is revoked stays")
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the client of a revoked certificate was disconnected after %v", took)
	}
	if _, err := dial("stolen", "mqtts", packet.V311); err == nil {
		t.Error("a revoked certificate came in")
	}
	if good.Err() != nil {
		t.Errorf("another client: %v", good.Err())
	}
}

// TestOpenSSLRecipes takes the certificates that Mosquitto's manual makes with openssl: common names only,
// of several authorities in one file, with RSA, ECDSA and Ed25519, and an encrypted key of the server. What it does not take, "gateway
// check" says how to mend.
func TestOpenSSLRecipes(t *testing.T) {
	for _, program := range []string{"openssl", "mosquitto_pub"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(program + " is missing: apt-get install openssl mosquitto-clients")
		}
	}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	openssl := func(line string) {
		t.Helper()
		try(t, "openssl", strings.Fields(strings.ReplaceAll(line, "@", dir+"/"))...)
	}
	bundle := ""
	for _, ca := range []string{"one", "two"} {
		openssl("req -new -x509 -days 2 -nodes -newkey rsa:2048 -keyout @" + ca + ".key -out @" + ca + ".crt -subj /CN=CA-" + ca)
		pem, err := os.ReadFile(in(ca + ".crt"))
		if err != nil {
			t.Fatal(err)
		}
		bundle += string(pem)
	}
	if err := os.Mkdir(in("folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, ca := range []string{"one", "two"} {
		if err := os.Link(in(ca+".crt"), filepath.Join(in("folder"), ca+".pem")); err != nil {
			t.Fatal(err)
		}
	}
	openssl("rehash @folder")
	if err := os.WriteFile(in("bundle.pem"), []byte(bundle), 0o644); err != nil {
		t.Fatal(err)
	}
	openssl("req -new -x509 -days 2 -nodes -newkey rsa:2048 -keyout @server.key -out @server.crt -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1")
	for _, tt := range [][]string{{"rsa", "one", "RSA -pkeyopt rsa_keygen_bits:2048"}, {"ecdsa", "two", "EC -pkeyopt ec_paramgen_curve:P-256"}, {"ed25519", "two", "ED25519"}} {
		openssl("genpkey -algorithm " + tt[2] + " -out @" + tt[0] + ".key")
		openssl("req -new -key @" + tt[0] + ".key -out @" + tt[0] + ".csr -subj /CN=" + tt[0])
		openssl("x509 -req -in @" + tt[0] + ".csr -CA @" + tt[1] + ".crt -CAkey @" + tt[1] + ".key -CAcreateserial -days 2 -out @" + tt[0] + ".crt")
	}
	openssl("pkey -in @server.key -aes256 -passout pass:secret -out @encrypted.key")
	for _, key := range []string{"server.key", "encrypted.key"} {
		if err := os.Chmod(in(key), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := freeAddress(t)
	listener := func(key, ca string) string {
		return fmt.Sprintf("  - {name: tls, address: %q, tls: {cert: %s, key: %s, client_ca: %s, require_certificate: true}}\n", address, in("server.crt"), key, in(ca))
	}
	g := newGateway(t, listener(in("encrypted.key")+", key_password: secret", "bundle.pem")+"auth: {rules: [{allow: publish, topics: '%u/x'}]}\n")
	g.start()
	_, port, _ := strings.Cut(address, ":")
	for _, name := range []string{"rsa", "ecdsa", "ed25519"} {
		args := []string{"-V", "5", "-h", "localhost", "-p", port, "--cafile", in("server.crt"), "--cert", in(name + ".crt"), "--key", in(name + ".key"), "-q", "1", "-m", "x", "-t"}
		if out := try(t, "mosquitto_pub", append(args, name+"/x")...); out != "" {
			t.Errorf("%s: %s", name, out)
		}
		if out := try(t, "mosquitto_pub", append(args, "other/x")...); !strings.Contains(out, "Not authorized") {
			t.Errorf("%s, to somebody else's topic: %q", name, out)
		}
	}
	bad := newGateway(t, listener(in("encrypted.key"), "folder"))
	out, err := exec.Command(binary, "check", bad.config).CombinedOutput()
	for _, remedy := range []string{in("encrypted.key") + " is encrypted: give its password as key_password", "cat " + in("folder") + "/????????.[0-9] > all.pem"} {
		if err == nil || !strings.Contains(string(out), remedy) {
			t.Errorf("gateway check does not say %q: %v\n%s", remedy, err, out)
		}
	}
	// What it says to run makes a file with both authorities.
	all := try(t, "sh", "-c", "cat "+in("folder")+"/????????.[0-9]")
	if n := strings.Count(all, "BEGIN CERTIFICATE"); n != 2 || !strings.Contains(all, strings.TrimSpace(bundle[:200])) {
		t.Errorf("the command finds %d authorities", n)
	}
}

// TestCommandsFromTheNetwork holds that without rules no listener takes commands, be it one that others can
// reach or not; and that only on this machine one reads what others have tried.
func TestCommandsFromTheNetwork(t *testing.T) {
	_, port, _ := strings.Cut(freeAddress(t), ":")
	for _, tt := range []struct {
		auth            string
		inside, outside packet.ReasonCode
	}{
		{"", packet.NotAuthorized, packet.NotAuthorized},
		{"auth: {rules: [{allow: [publish, subscribe], topics: [vent/set, $SYS/#], listeners: local}]}\n", packet.Success, packet.NotAuthorized},
		{"auth: {rules: [{allow: subscribe, topics: $SYS/#, listeners: local}, {allow: publish, topics: vent/set, listeners: everywhere}]}\n", packet.NotAuthorized, packet.Success},
	} {
		g := newGateway(t, "  - {name: everywhere, address: \":"+port+"\", anonymous: true}\nboard: sim\noutputs: [{point: vent, line: VENT, safe: off}]\n"+tt.auth)
		g.start()
		var outside *client.Client
		var told, toldInside atomic.Bool
		inside := g.connect(client.Options{Version: packet.V5, ClientID: "inside", Receive: func(packet.Publish) { toldInside.Store(true) }})
		if _, err := inside.Subscribe(t.Context(), packet.Subscription{Filter: "$SYS/broker/last_denied"}); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "the gateway listens to the network", func() (ok bool) {
			var err error
			outside, err = client.Dial(t.Context(), "mqtt://127.0.0.1:"+port, client.Options{Version: packet.V5, ClientID: "outside", Receive: func(p packet.Publish) {
				if p.Topic == "$SYS/broker/last_denied" {
					told.Store(true)
				}
			}})
			return err == nil
		})
		defer outside.Close()
		reasons, err := outside.Subscribe(t.Context(), packet.Subscription{Filter: "$SYS/broker/#"})
		if err != nil || (reasons[0] == packet.NotAuthorized) != (tt.auth != "") {
			t.Errorf("with %q: statistics: %v, %v", tt.auth, reasons, err)
		}
		for c, want := range map[*client.Client]packet.ReasonCode{inside: tt.inside, outside: tt.outside} {
			reason, err := c.Publish(t.Context(), packet.Publish{Topic: "vent/set", Payload: []byte("on"), QoS: 1})
			if reason != want || err != nil && !want.Failed() {
				t.Errorf("with %q: %v, %v; want %v", tt.auth, reason, err, want)
			}
		}
		eventually(t, 5*time.Second, "the denial is told", toldInside.Load)
		if _, err := outside.Subscribe(t.Context(), packet.Subscription{Filter: "$SYS/broker/uptime"}); err != nil || told.Load() {
			t.Errorf("with %q: the last denial is told to others too, %v", tt.auth, err)
		}
		outside.Close()
		g.kill()
	}
}

// TestMosquittoLogsIn uses the programs that people have, with a user and a password that
// mosquitto_passwd wrote, over TCP and TLS.
func TestMosquittoLogsIn(t *testing.T) {
	h := newHall(t)
	for _, program := range []string{"mosquitto_passwd", "mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(program + " is missing: apt-get install mosquitto mosquitto-clients")
		}
	}
	try(t, "mosquitto_passwd", "-b", h.passwords, "anna", "a new one")
	if err := os.Chmod(h.passwords, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the new password is in force", func() bool {
		_, reason := h.dial(t, h.urls["passwords TCP"], client.Options{Username: "anna", Password: "a new one"})
		return !reason.Failed()
	})
	for _, transport := range []string{"TCP", "TLS"} {
		_, address, _ := strings.Cut(h.urls["passwords "+transport], "://")
		host, port, _ := strings.Cut(address, ":")
		args := []string{"-h", host, "-p", port, "-u", "anna", "-P", "a new one", "-q", "1"}
		if transport == "TLS" {
			args = append(args, "--cafile", h.ca.file)
		}
		try(t, "mosquitto_pub", append(slices.Clone(args), "-r", "-t", "anna/"+transport, "-m", "hello")...)
		if got := try(t, "mosquitto_sub", append(slices.Clone(args), "-t", "#", "-v", "-C", "1", "-W", "10")...); got != "anna/"+transport+" hello" {
			t.Errorf("%s: got %q", transport, got)
		}
		try(t, "mosquitto_pub", append(slices.Clone(args), "-r", "-n", "-t", "anna/"+transport)...)
	}
}
