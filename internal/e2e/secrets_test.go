package e2e

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// A searcher keeps all that is printed, told, sent or stored, by the place where it was found.
type searcher map[string]*strings.Builder

func (s searcher) keep(place, text string) {
	if s[place] == nil {
		s[place] = new(strings.Builder)
	}
	s[place].WriteString(text + "\n")
}

// run runs a subcommand of the program, whether it fails or not.
func (s searcher) run(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, binary, args...).CombinedOutput()
	s.keep("gateway "+args[0], string(out))
}

// search looks for a secret in each form in which it may have been written.
func (s searcher) search(t *testing.T, name, secret string) {
	t.Helper()
	forms := map[string]string{
		"as it is": secret, "as hexadecimal digits": hex.EncodeToString([]byte(secret)), "in a URL": url.QueryEscape(secret),
		"in base64": strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(secret)), "="), "in base64url": base64.RawURLEncoding.EncodeToString([]byte(secret)),
	}
	for place, text := range s {
		for form, what := range forms {
			if strings.Contains(strings.ToLower(text.String()), strings.ToLower(what)) {
				t.Errorf("the %s is in %s, %s", name, place, form)
			}
		}
	}
}

// administer lets a super user make a device and give it another secret, over MQTT, while one of them is away who
// would get the answers later.
func administer(t *testing.T, address, password string) (added, rotated string) {
	t.Helper()
	answers := make(chan string, 10)
	enter := func(id string, keep bool) *client.Client {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := client.Dial(ctx, "mqtt://"+address, client.Options{
			Version: packet.V5, ClientID: id, Username: "anna", Password: password, KeepSession: keep, SessionExpiry: 3600,
			Receive: func(p packet.Publish) { answers <- string(p.Payload) },
		})
		if err != nil {
			t.Fatal(err)
		}
		subscribe(t, c, "$CONTROL/+/v1/response", 1)
		return c
	}
	enter("away", true).Close()
	here := enter("here", false)
	defer here.Close()
	order := func(text string, retain bool) string {
		if _, err := here.Publish(t.Context(), packet.Publish{Topic: "$CONTROL/devices/v1", Payload: []byte(text), QoS: 1, Retain: retain}); err != nil {
			t.Fatal(err)
		}
		select {
		case answer := <-answers:
			var a struct{ Secret string }
			if err := json.Unmarshal([]byte(answer), &a); err != nil {
				t.Fatal(err)
			}
			return a.Secret
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: no answer", text)
		}
		return ""
	}
	added = order(`{"command":"add","name":"valve"}`, false)
	rotated = order(`{"command":"rotate","name":"valve"}`, true)
	if s := order(`{"command":"list"}`, false); added == "" || rotated == "" || s != "" {
		t.Errorf("secrets of %d, %d and %d characters", len(added), len(rotated), len(s))
	}
	return added, rotated
}

// TestSecretsAreNowhere plants a secret for each way to log in, uses them rightly and wrongly, and then looks for
// them in everything that the gateway says: its log with all details, its topics, what clients are told, the
// dump of its store, the output of its subcommands, and its files.
func TestSecretsAreNowhere(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	secrets := map[string]string{
		"password": "plant/anna 7Qx", "wrong password": "plant/wrong 7Qx", "password of a second factor": "plant/alice 7Qx", "password for SCRAM": "plant-scram-7Qx",
		"password for the service": "plant/http 7Qx", "key for signatures": "plant/sign 7Qx", "header": "plant/header 7Qx",
		"password of the bridge": "plant/bridge 7Qx", "password of the proxy": "plant/proxy 7Qx", "password of the key": "plant/key 7Qx",
	}
	right, wrong := secrets["password"], secrets["wrong password"]
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.FormValue("who") == "garbage":
			fmt.Fprint(w, "{")
		case r.FormValue("what") != secrets["password for the service"]:
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(service.Close)
	ca := newAuthority(t, "secrets")
	server := ca.valid("gateway")
	try(t, binary, "passwd", "-b", in("passwords"), "anna", right)
	try(t, binary, "passwd", "-b", in("passwords"), "alice", secrets["password of a second factor"])
	try(t, binary, "scram", "-b", in("users"), "scott", secrets["password for SCRAM"])
	secrets["secret of a second factor"], _, _ = strings.Cut(try(t, binary, "totp", in("codes"), "alice"), "\n")
	door, locked, dead := freeAddress(t), freeAddress(t), freeAddress(t)
	g := newGateway(t, fmt.Sprintf(`  - {name: door, address: %q, auth: [passwords, device, http], methods: [SCRAM-SHA-256, PASSWORD-TOTP], protocols: [mqtt, http]}
  - {name: locked, address: %q, anonymous: true, tls: {cert: %s, key: %s, key_password: %q}}
limits: {failed_logins: 1000, client_connects: 1000}
auth:
  password_file: %s
  scram_file: %s
  totp_file: %s
  super_users: anna
  rules:
    - {allow: [publish, subscribe], topics: ["#", "$SYS/#"], listeners: local}
    - {allow: [publish, subscribe], topics: "own/%%u"}
  http_auth:
    auth_req: {url: "%s/auth", method: GET, headers: {authorization: %q}, params: {who: "%%u", what: "%%P"}}
    sign_key: %q
    on_error: cached
    cache_ttl: 0s
    refused_ttl: 0s
bridges:
  - name: cloud
    url: mqtt://%s
    proxy: http://%s
    proxy_username: proxied
    proxy_password: %q
    username: bridged
    password: %q
    rules: [{direction: out, filter: up/#}]
`, door, locked, server.cert, server.key, secrets["password of the key"], in("passwords"), in("users"), in("codes"), service.URL, secrets["header"],
		secrets["key for signatures"], dead, dead, secrets["password of the proxy"], secrets["password of the bridge"]))
	text, err := os.ReadFile(g.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.config, []byte(strings.Replace(string(text), "gateway:\n", "gateway:\n  log: debug\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	secrets["secret of a device"] = passwordLine.FindStringSubmatch(try(t, binary, "device", "--data", g.folder, "add", "pump"))[1]
	g.start()

	found := make(searcher)
	told := &inbox{}
	watch := g.connect(client.Options{Version: packet.V5, Receive: func(p packet.Publish) { told.add(packet.Publish{Payload: []byte(p.Topic + " " + string(p.Payload))}) }})
	subscribe(t, watch, "#", 0)
	subscribe(t, watch, "$SYS/#", 0)
	enter := func(o client.Options) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		c, err := client.Dial(ctx, "mqtt://"+door, o)
		if err != nil {
			found.keep("what clients are told", err.Error())
			return
		}
		defer c.Close()
		_, err = c.Publish(ctx, packet.Publish{Topic: "not/mine", QoS: 1})
		_, err2 := c.Publish(ctx, packet.Publish{Topic: "own/" + o.Username, QoS: 1, Retain: true, Payload: []byte("mine")})
		found.keep("what clients are told", fmt.Sprint(err, err2))
	}
	attempt := func(when string) {
		for user, password := range map[string]string{"anna": right, "pump": secrets["secret of a device"], "hans": secrets["password for the service"], "garbage": wrong, "nobody": right} {
			for _, p := range []string{password, wrong, password + "x"} {
				for _, v := range []packet.Version{packet.V311, packet.V5} {
					enter(client.Options{Version: v, ClientID: when + " " + user, Username: user, Password: p, KeepSession: true, SessionExpiry: 3600, Will: &packet.Will{Topic: "own/" + user, Payload: []byte("gone")}})
				}
			}
			r, err := http.NewRequest(http.MethodPost, "http://"+door+"/api/devices", strings.NewReader(`{"command":"list"}`))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			r.SetBasicAuth(user, password)
			if resp, err := http.DefaultClient.Do(r); err == nil {
				var b strings.Builder
				_ = resp.Write(&b)
				found.keep("the HTTP interface", b.String())
				resp.Body.Close()
			}
		}
		for _, p := range []string{secrets["password for SCRAM"], wrong} {
			found.run(t, "pub", "--url", "mqtt://"+door, "--auth", "SCRAM-SHA-256", "-u", "scott", "-P", p, "own/scott", "x")
		}
		for _, p := range []string{secrets["password of a second factor"], wrong} {
			found.run(t, "pub", "--url", "mqtt://"+door, "--auth", "PASSWORD-TOTP", "-u", "alice", "-P", p, "--code", "123456", "own/alice", "x")
		}
	}
	attempt("first")
	secrets["secret of a device that was added"], secrets["secret that was replaced"] = administer(t, door, right)
	service.Close()
	attempt("without the service")
	eventually(t, 10*time.Second, "the bridge has tried to connect", func() bool { return len(g.log.lines("bridge")) > 0 })
	g.interrupt(10 * time.Second)

	found.run(t, "store", "dump", filepath.Join(g.folder, "store.db"), "--payload-bytes", "-1")
	found.run(t, "store", "check", filepath.Join(g.folder, "store.db"))
	found.run(t, "check", g.config)
	found.run(t, "explain", "--listener", "door", "--user", "anna", "publish", "x", g.config)
	found.run(t, "device", "--data", g.folder, "list")
	found.run(t, "device", "--data", g.folder, "show", "pump")
	found.keep("the log", strings.Join(g.log.lines(), "\n"))
	found.keep("topics", strings.Join(told.texts(), "\n"))
	err = filepath.WalkDir(g.folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		b, err := os.ReadFile(path)
		found.keep(path, string(b))
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, name := range []string{"passwords", "users", "codes"} {
		info, err := os.Stat(in(name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	for _, place := range []string{"the log", "topics", "what clients are told", "the HTTP interface", "gateway store", "gateway pub", "gateway device"} {
		if s := found[place]; s == nil || s.Len() < 20 {
			t.Errorf("nothing to search in %s", place)
		}
	}
	if dump := found["gateway store"].String(); !strings.Contains(dump, `"topic":"$CONTROL/devices/v1/response"`) || !strings.Contains(dump, `"payload_hidden":true`) {
		t.Error("the dump has no answer to who was away")
	}
	if !strings.Contains(found["gateway store"].String(), "own/anna") || !strings.Contains(found["the log"].String(), "level=DEBUG") {
		t.Error("the dump has no messages, or the log no details")
	}
	for name, secret := range secrets {
		found.search(t, name, secret)
	}
}
