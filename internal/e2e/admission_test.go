package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// A porch is a gateway whose clients are registered devices, or known to an HTTP service. The service
// runs in the process of the test.
type porch struct {
	*gateway
	ca      *authority
	roots   *tls.Config
	urls    map[string]string // by way to log in and transport
	service *httptest.Server
	answer  atomic.Pointer[http.HandlerFunc] // of the service
	asked   atomic.Int64
	secrets []string // that must not be found anywhere
}

// newPorch writes the configuration; more are lines of auth.http_auth.
func newPorch(t *testing.T, more ...string) *porch {
	t.Helper()
	p := &porch{ca: newAuthority(t, "porch"), urls: make(map[string]string), secrets: []string{"right-password", "wrong-password"}}
	p.roots = &tls.Config{RootCAs: p.ca.client(p.ca.valid("client")).RootCAs}
	p.works()
	p.service = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		(*p.answer.Load())(w, r)
	}))
	t.Cleanup(p.service.Close)
	server := p.ca.valid("gateway")
	listeners := ""
	for _, way := range []string{"device", "http"} {
		plain, secure := freeAddress(t), freeAddress(t)
		p.urls[way+" TCP"], p.urls[way+" TLS"], p.urls[way+" WSS"] = "mqtt://"+plain, "mqtts://"+secure, "wss://"+secure
		listeners += fmt.Sprintf("  - {name: %s, address: %q, auth: %s}\n  - {name: %s tls, address: %q, protocols: [mqtt, websocket], auth: %s, tls: {cert: %s, key: %s}}\n",
			way, plain, way, way, secure, way, server.cert, server.key)
	}
	p.gateway = newGateway(t, listeners+fmt.Sprintf(`limits: {failed_logins: 1000, client_connects: 1000}
auth:
  http_auth:
    auth_req:
      url: "%s/auth"
      method: "POST"
      headers: {content-type: "application/x-www-form-urlencoded"}
      params: {clientid: "%%c", username: "%%u", password: "%%P"}
    cache_ttl: 0s
    refused_ttl: 0s
`, p.service.URL), strings.Join(more, ""))
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.Replace(string(text), "gateway:\n", "gateway:\n  log: debug\n", 1))
	if err := os.WriteFile(p.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.keepsSecrets(t) })
	return p
}

// works lets the service know ann.
func (p *porch) works() {
	p.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("username") != "ann" || r.FormValue("password") != "right-password" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
}

func (p *porch) serve(h http.HandlerFunc) { p.answer.Store(&h) }

// start runs the gateway and waits until all of its listeners answer.
func (p *porch) start() {
	p.t.Helper()
	p.gateway.start()
	for _, url := range p.urls {
		_, address, _ := strings.Cut(url, "://")
		eventually(p.t, 10*time.Second, "the gateway answers at "+address, func() bool {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
}

// keepsSecrets looks for secrets in what the gateway has logged and kept.
func (p *porch) keepsSecrets(t *testing.T) {
	places := map[string]string{"the log": strings.Join(p.log.lines(), "\n")}
	files, err := filepath.Glob(filepath.Join(p.folder, "*"))
	if err != nil || len(files) == 0 {
		t.Errorf("%d files, %v", len(files), err)
	}
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil || info.IsDir() {
			continue
		}
		if info.Mode().Perm()&0o077 != 0 && info.Mode().IsRegular() {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		if b, err := os.ReadFile(name); err == nil {
			places[name] = string(b)
		}
	}
	for place, text := range places {
		for _, secret := range p.secrets {
			if strings.Contains(text, secret) {
				t.Errorf("a secret is in %s", place)
			}
		}
	}
}

var passwordLine = regexp.MustCompile(`(?m)^password +(\S+)$`)

// device runs a subcommand of "gateway device" beside the gateway, and returns the secret that it
// shows, if it does.
func (p *porch) device(args ...string) string {
	p.t.Helper()
	out := try(p.t, binary, append([]string{"device", "--data", p.folder}, args...)...)
	if m := passwordLine.FindStringSubmatch(out); m != nil {
		p.secrets = append(p.secrets, m[1])
		return m[1]
	}
	return ""
}

// dial connects a client, and returns the reason when it may not come in.
func (p *porch) dial(url string, o client.Options) (*client.Client, packet.ReasonCode) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	o.TLS = p.roots
	c, err := client.Dial(ctx, url, o)
	if refused, ok := errors.AsType[*client.Error](err); ok {
		return nil, refused.Reason
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(c.Close)
	return c, 0
}

// TestRevoking ends live sessions within a second, whatever it is that is revoked, and by whom.
func TestRevoking(t *testing.T) {
	p := newPorch(t)
	secret := p.device("add", "dev")
	p.start()
	ban := func(verb, what string) { try(t, binary, "ban", "--data", p.folder, verb, what) }
	for _, tt := range []struct {
		name         string
		revoke, mend func()
	}{
		{"disabled", func() { p.device("disable", "dev") }, func() { p.device("enable", "dev") }},
		{"rotated", func() { secret = p.device("rotate", "dev") }, func() {}},
		{"removed", func() { p.device("remove", "dev") }, func() { secret = p.device("add", "dev") }},
		{"user banned", func() { ban("add", "user:dev") }, func() { ban("remove", "user:dev") }},
		{"client banned", func() { ban("add", "client:c-1") }, func() { ban("remove", "client:c-1") }},
		{"pattern banned", func() { ban("add", "pattern:c-*") }, func() { ban("remove", "pattern:c-*") }},
	} {
		var c *client.Client
		eventually(t, 5*time.Second, "the device comes in", func() bool {
			c, _ = p.dial(p.urls["device TCP"], client.Options{ClientID: "c-1", Version: packet.V5, Username: "dev", Password: secret})
			return c != nil
		})
		began := time.Now()
		tt.revoke()
		select {
		case <-c.Done():
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: the session goes on", tt.name)
		}
		// The second is from the change; this machine may be busy.
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s: disconnected after %v", tt.name, took)
		} else {
			t.Logf("%s: disconnected after %v", tt.name, took.Round(time.Millisecond))
		}
		if e, ok := errors.AsType[*client.Error](c.Err()); !ok || e.Reason != packet.AdministrativeAction {
			t.Errorf("%s: %v", tt.name, c.Err())
		}
		tt.mend()
	}
}

// TestSlowService lets others work while a service does not answer: nobody else waits.
func TestSlowService(t *testing.T) {
	p := newPorch(t, "    timeout: 30s\n")
	secret := p.device("add", "dev")
	p.start()
	release := make(chan struct{})
	let := sync.OnceFunc(func() { close(release) })
	t.Cleanup(let) // before the service is closed
	p.serve(func(http.ResponseWriter, *http.Request) { <-release })
	const waiting = 40 // more than the pool has places
	reasons := make(chan packet.ReasonCode, waiting)
	for i := range waiting {
		go func() {
			_, reason := p.dial(p.urls["http TCP"], client.Options{ClientID: fmt.Sprint("slow", i), Username: "ann", Password: "right-password"})
			reasons <- reason
		}()
	}
	eventually(t, 10*time.Second, "the service has all that it may", func() bool { return p.asked.Load() == 32 })
	in := &inbox{}
	c, reason := p.dial(p.urls["device TLS"], client.Options{ClientID: "dev", Username: "dev", Password: secret, Receive: in.add})
	if c == nil {
		t.Fatal(reason)
	}
	subscribe(t, c, "a", 1)
	for i := range 20 {
		if err := c.Send(t.Context(), packet.Publish{Topic: "a", Payload: []byte(fmt.Sprint(i)), QoS: 1}, nil); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 10*time.Second, "the messages come", func() bool { return len(in.texts()) == 20 })
	select {
	case reason := <-reasons:
		t.Errorf("one that waits has got %s", reason)
	default:
	}
	let()
	for range waiting {
		if reason := <-reasons; reason != packet.Success {
			t.Errorf("one that has waited gets %s", reason)
		}
	}
}

// TestSlowServiceBesidePasswords lets five hundred devices knock whom a service decides about that takes
// ten seconds. Who has a password comes in through the same listener as always.
func TestSlowServiceBesidePasswords(t *testing.T) {
	p := newPorch(t, "    timeout: 30s\n  password_file: passwords\n")
	address := freeAddress(t)
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	with := strings.NewReplacer("limits: {", "limits: {connect_rate: 5000, ",
		"listeners:\n", fmt.Sprintf("listeners:\n  - {name: both, address: %q, auth: [passwords, http]}\n", address)).Replace(string(text))
	if err := os.WriteFile(p.config, []byte(with), 0o600); err != nil {
		t.Fatal(err)
	}
	try(t, binary, "passwd", "-c", "-b", "-I", "1000", filepath.Join(filepath.Dir(p.config), "passwords"), "anna", "pencil")
	p.start()
	release := make(chan struct{})
	let := sync.OnceFunc(func() { close(release) })
	t.Cleanup(let) // before the service is closed
	p.serve(func(http.ResponseWriter, *http.Request) {
		select {
		case <-time.After(10 * time.Second):
		case <-release:
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	var refused, closed atomic.Int64
	for i := range 500 {
		work.Go(func() {
			for ctx.Err() == nil {
				c, err := client.Dial(ctx, "mqtt://"+address, client.Options{Version: packet.V5, ClientID: fmt.Sprint("device", i), Username: "ann", Password: "right-password"})
				if e, ok := errors.AsType[*client.Error](err); ok && e.Reason == packet.ServerUnavailable {
					refused.Add(1)
				} else if err != nil && ctx.Err() == nil {
					closed.Add(1)
				}
				if c != nil {
					c.Close()
				}
				select {
				case <-time.After(time.Second + rand.N(2*time.Second)):
				case <-ctx.Done():
				}
			}
		})
	}
	eventually(t, 20*time.Second, "most devices are told to come again", func() bool { return refused.Load() >= 400 && p.asked.Load() == 32 })
	for range 20 {
		began := time.Now()
		for { // five hundred at a time may fill the backlog of any listener
			c, err := client.Dial(ctx, "mqtt://"+address, client.Options{Version: packet.V5, ClientID: "anna", Username: "anna", Password: "pencil"})
			if e, ok := errors.AsType[*client.Error](err); ok {
				t.Fatalf("with a password: %s", e.Reason)
			}
			if c != nil {
				c.Close()
				break
			}
		}
		if took := time.Since(began); took > 5*time.Second { // half of what the service takes, on a busy machine
			t.Errorf("a login with a password takes %v", took)
		}
	}
	if p.asked.Load() != 32 {
		t.Error("the service has answered meanwhile: nobody had to wait")
	}
	t.Logf("%d times told to come again, %d connections closed", refused.Load(), closed.Load())
}

// TestGraceThroughRestart lets a device that the service knows return while it is away, after a
// restart of the gateway too, and nobody else.
func TestGraceThroughRestart(t *testing.T) {
	p := newPorch(t, "    on_error: cached\n    grace: 1h\n")
	p.start()
	ann := client.Options{ClientID: "dev", Version: packet.V5, Username: "ann", Password: "right-password"}
	url := p.urls["http TCP"]
	if c, reason := p.dial(url, ann); c == nil {
		t.Fatal(reason)
	}
	p.service.Close()
	check := func(when string) {
		t.Helper()
		for _, tt := range []struct {
			id, user, password string
			want               packet.ReasonCode
		}{
			{"dev", "ann", "right-password", packet.Success},
			{"dev", "ann", "wrong-password", packet.ServerUnavailable},
			{"other", "ann", "right-password", packet.ServerUnavailable},
			{"dev", "bob", "right-password", packet.ServerUnavailable},
		} {
			o := ann
			o.ClientID, o.Username, o.Password = tt.id, tt.user, tt.password
			began := time.Now()
			if _, reason := p.dial(url, o); reason != tt.want {
				t.Errorf("%s: %s %s %s: %s, want %s", when, tt.id, tt.user, tt.password, reason, tt.want)
			}
			t.Logf("%s: answered after %v", when, time.Since(began))
		}
	}
	check("the service is away")
	if _, code := p.interrupt(5 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.start()
	check("after a restart")
	try(t, binary, "ban", "--data", p.folder, "add", "client:dev")
	eventually(t, 5*time.Second, "a ban keeps the device out", func() bool {
		_, reason := p.dial(url, ann)
		return reason == packet.Banned
	})
}

// TestControl administers the gateway over MQTT, and only who may does.
func TestControl(t *testing.T) {
	p := newPorch(t)
	passwords, address := filepath.Join(t.TempDir(), "passwords"), freeAddress(t)
	for _, user := range []string{"root", "guest"} {
		try(t, binary, "passwd", "-I", "100", "-b", passwords, user, "right-password")
	}
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.Replace(strings.Replace(string(text), "auth:\n  http_auth:", fmt.Sprintf("auth:\n  password_file: %s\n  super_users: root\n  http_auth:", passwords), 1),
		"listeners:\n", fmt.Sprintf("listeners:\n  - {name: admin, address: %q, auth: passwords}\n", address), 1))
	if err := os.WriteFile(p.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	p.start()
	answers := make(chan string, 10)
	enter := func(user string) *client.Client {
		c, reason := p.dial("mqtt://"+address, client.Options{ClientID: user, Version: packet.V5, Username: user, Password: "right-password",
			Receive: func(m packet.Publish) { answers <- m.Topic + " " + string(m.Payload) }})
		if c == nil {
			t.Fatal(reason)
		}
		return c
	}
	send := func(c *client.Client, what, order string) packet.ReasonCode {
		done := make(chan packet.ReasonCode, 1)
		if err := c.Send(t.Context(), packet.Publish{Topic: "$CONTROL/" + what + "/v1", Payload: []byte(order), QoS: 1}, func(r packet.ReasonCode, _ error) { done <- r }); err != nil {
			t.Fatal(err)
		}
		return <-done
	}
	root, guest := enter("root"), enter("guest")
	subscribe(t, root, "$CONTROL/+/v1/response", 1)
	for _, c := range []*client.Client{guest, p.connect(client.Options{Version: packet.V5})} {
		if r := send(c, "devices", `{"command":"add","name":"mine"}`); r != packet.NotAuthorized {
			t.Errorf("one who may not gives an order: %s", r)
		}
		for _, filter := range []string{"$CONTROL/#", "$CONTROL/devices/v1/response", "$share/g/$CONTROL/+/v1/response"} {
			a, err := c.Subscribe(t.Context(), packet.Subscription{Filter: filter})
			if err == nil && !a[0].Failed() {
				t.Errorf("one who may not subscribes to %s", filter)
			}
		}
	}
	order := func(what, order, want string) map[string]any {
		t.Helper()
		if r := send(root, what, order); r.Failed() {
			t.Fatalf("%s: %s", order, r)
		}
		select {
		case got := <-answers:
			topic, payload, _ := strings.Cut(got, " ")
			var answer map[string]any
			if err := json.Unmarshal([]byte(payload), &answer); err != nil || topic != "$CONTROL/"+what+"/v1/response" {
				t.Fatalf("%s: %s %v", order, topic, err)
			}
			if secret, ok := answer["secret"].(string); ok {
				p.secrets = append(p.secrets, secret)
			}
			if got, _ := answer["error"].(string); !strings.Contains(got, want) || want == "" && got != "" {
				t.Errorf("%s: error %q, want %q", order, got, want)
			}
			return answer
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: no answer", order)
		}
		return nil
	}
	added := order("devices", `{"command":"add","name":"dev","labels":["room=3"],"expires":"90d","correlation":"x1"}`, "")
	if added["correlation"] != "x1" || added["name"] != "dev" {
		t.Errorf("%v", added)
	}
	secret, _ := added["secret"].(string)
	var dev *client.Client
	eventually(t, 5*time.Second, "the device comes in", func() bool {
		dev, _ = p.dial(p.urls["device TCP"], client.Options{ClientID: "d", Username: "dev", Password: secret})
		return dev != nil
	})
	if list := fmt.Sprint(order("devices", `{"command":"list"}`, "")["devices"]); !strings.Contains(list, "room:3") || !strings.Contains(list, "state:enabled") {
		t.Errorf("the list is %s", list)
	}
	order("devices", `{"command":"add","name":"dev"}`, "there is a device of that name")
	order("devices", `{"command":"show","name":"no"}`, "no such device")
	order("devices", `{"command":"dance"}`, "there is no such command here")
	// A key of another command would be left out in silence: a device or a ban that was meant to end would not.
	order("devices", `{"command":"add","name":"ever","until":"7d"}`, `unknown field "until"`)
	order("devices", `{"command":"show","name":"ever"}`, "no such device")
	order("bans", `{"command":"add","ban":"client:ever","expires":"1h"}`, `unknown field "expires"`)
	order("devices", `{"command":"list","name":"dev"}`, `unknown field "name"`)
	order("cache", `{"command":"purge","username":"d"}`, `unknown field "username"`)
	order("cache", `{"command":"purge"} {"client":"d"}`, "after top-level value")
	order("devices", `{"comand":"add"}`, "unknown field")
	order("devices", `junk`, "a JSON object with a command is wanted")
	order("cache", `{"command":"purge","client":"d"}`, "")
	order("bans", `{"command":"add","ban":"client:d","reason":"loud","until":"1h"}`, "")
	eventually(t, 5*time.Second, "the device is disconnected", func() bool {
		select {
		case <-dev.Done():
			return true
		default:
			return false
		}
	})
	if list := fmt.Sprint(order("bans", `{"command":"list"}`, "")["bans"]); !strings.Contains(list, "loud") {
		t.Errorf("the list is %s", list)
	}
	order("bans", `{"command":"remove","ban":"client:d"}`, "")
	order("bans", `{"command":"remove","ban":"client:d"}`, "no such ban")
	order("devices", `{"command":"rotate","name":"dev","overlap":"1h"}`, "")
	order("devices", `{"command":"disable","name":"dev"}`, "")
	order("devices", `{"command":"enable","name":"dev"}`, "")
	order("devices", `{"command":"remove","name":"dev"}`, "")
}

// TestServiceRules lets the service decide what its clients do: by acl_req, by rules in its answer, and
// as super users, who alone may administer the gateway.
func TestServiceRules(t *testing.T) {
	p := newPorch(t)
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	acl := fmt.Sprintf(`    acl_req: {url: "%s/acl", method: GET, params: {who: "%%u", topic: "%%t", access: "%%A"}}
    super_req: {url: "%s/super", method: GET, params: {who: "%%u"}}
    cache_ttl`, p.service.URL, p.service.URL)
	if err := os.WriteFile(p.config, []byte(strings.Replace(string(text), "    cache_ttl", acl, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	p.serve(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/super" && r.FormValue("who") == "root", r.URL.Path == "/acl" && r.FormValue("topic") == "open":
		case r.URL.Path == "/acl" && strings.HasPrefix(r.FormValue("topic"), "$CONTROL"):
		case r.URL.Path == "/auth":
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"result":"allow","acl":[{"permission":"deny","topic":"closed"},{"permission":"allow","action":"publish","topic":"own/${username}"}]}`)
		default:
			w.WriteHeader(http.StatusForbidden)
		}
	})
	p.start()
	for _, tt := range []struct {
		user, topic        string
		publish, subscribe packet.ReasonCode
	}{
		{"ann", "open", packet.Success, packet.Success},
		{"ann", "closed", packet.NotAuthorized, packet.NotAuthorized},
		{"ann", "own/ann", packet.Success, packet.NotAuthorized},
		{"ann", "own/bob", packet.NotAuthorized, packet.NotAuthorized},
		{"ann", "$CONTROL/bans/v1/response", packet.NotAuthorized, packet.NotAuthorized},
		{"root", "own/bob", packet.Success, packet.Success},
		{"root", "$CONTROL/bans/v1/response", packet.Success, packet.Success},
	} {
		c, reason := p.dial(p.urls["http TCP"], client.Options{Version: packet.V5, Username: tt.user, Password: "right-password"})
		if c == nil {
			t.Fatal(reason)
		}
		done := make(chan packet.ReasonCode, 1)
		if err := c.Send(t.Context(), packet.Publish{Topic: tt.topic, QoS: 1}, func(r packet.ReasonCode, _ error) { done <- r }); err != nil {
			t.Fatal(err)
		}
		if got := <-done; got != tt.publish && (got.Failed() || tt.publish.Failed()) {
			t.Errorf("%s publishes to %s: %s, want %s", tt.user, tt.topic, got, tt.publish)
		}
		got, err := c.Subscribe(t.Context(), packet.Subscription{Filter: tt.topic})
		if err != nil || got[0] != tt.subscribe {
			t.Errorf("%s subscribes to %s: %s, %v, want %s", tt.user, tt.topic, got, err, tt.subscribe)
		}
	}
	for _, tt := range []struct {
		topic string
		more  []string
		want  string
	}{
		{"open", []string{"--ask"}, "allowed: the HTTP service allows it"},
		{"other", []string{"--ask"}, "denied: the HTTP service refuses it: status 403"},
		{"open", nil, "the HTTP service is asked first (acl_req), and what it refuses is denied; --ask does that now. If it leaves it to the gateway:\ndenied: acl_req does not allow it, and no rule of section auth does"},
	} {
		before := p.asked.Load()
		args := append([]string{"explain", "--listener", "http", "--user", "ann", "publish", tt.topic, p.config}, tt.more...)
		if got := try(t, binary, args...); got != tt.want {
			t.Errorf("%v: %s, want %s", args, got, tt.want)
		}
		if asked := p.asked.Load() > before; asked != (tt.more != nil) {
			t.Errorf("%v: the service was asked: %t", args, asked)
		}
	}
}
