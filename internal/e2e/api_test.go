package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// TestAPI administers devices and bans over HTTPS: only who may, and live.
func TestAPI(t *testing.T) {
	a := newAuthority(t, "hall")
	server, passwords, address := a.valid("gateway"), filepath.Join(t.TempDir(), "passwords"), freeAddress(t)
	for _, user := range []string{"root", "anna"} {
		try(t, binary, "passwd", "-I", "100", "-b", passwords, user, "pencil")
	}
	g := newGateway(t, fmt.Sprintf(`  - name: hall
    address: %s
    protocols: [mqtt, http]
    auth: [passwords, device, certificate]
    tls: {cert: %s, key: %s, client_ca: %s}
auth:
  password_file: %s
  super_users: root
bridges:
  - {name: cloud, url: "mqtt://127.0.0.1:1", rules: [{direction: out, filter: up/#}]}
`, address, server.cert, server.key, a.file, passwords))
	g.start()
	nameless := a.client(server)
	nameless.Certificates = nil
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: nameless}}
	t.Cleanup(web.CloseIdleConnections)
	ask := func(method, path, kind, user, password, order string) (status int, answer map[string]any) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "https://"+address+path, strings.NewReader(order))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind)
		if user != "" {
			r.SetBasicAuth(user, password)
		}
		response, err := web.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Errorf("%s %s: %q: %v", method, path, body, err)
		}
		if bytes.Contains(body, []byte("pencil")) {
			t.Errorf("%s %s tells a password", method, path)
		}
		return response.StatusCode, answer
	}
	const kind = "application/json"
	for _, tt := range []struct {
		name, method, path, kind, user, password, order string
		want                                            int
	}{
		{"nobody", "POST", "/api/devices", kind, "", "", `{"command":"list"}`, 401},
		{"wrong password", "POST", "/api/devices", kind, "root", "pen", `{"command":"list"}`, 401},
		{"unknown user", "POST", "/api/devices", kind, "eve", "pen", `{"command":"list"}`, 401},
		{"no administrator", "POST", "/api/devices", kind, "anna", "pencil", `{"command":"list"}`, 403},
		{"what a page of another site may send", "POST", "/api/devices", "text/plain", "root", "pencil", `{"command":"list"}`, 415},
		{"a method that changes nothing", "GET", "/api/devices", kind, "root", "pencil", "", 405},
		{"no such path", "POST", "/api/pins", kind, "root", "pencil", `{}`, 404},
		{"no such command", "POST", "/api/devices", kind, "root", "pencil", `{"command":"eat"}`, 400},
		{"dead letters of no bridge", "POST", "/api/dead", kind, "root", "pencil", `{"command":"list","bridge":"clod"}`, 400},
		{"dead letters", "POST", "/api/dead", kind, "root", "pencil", `{"command":"list","bridge":"cloud"}`, 200},
		{"dead letters of others", "POST", "/api/dead", kind, "anna", "pencil", `{"command":"list","bridge":"cloud"}`, 403},
		{"no JSON", "POST", "/api/bans", kind, "root", "pencil", `{"command"`, 400},
		{"too long", "POST", "/api/bans", kind, "root", "pencil", `{"command":"` + strings.Repeat("x", 5000) + `"}`, 400},
		{"an administrator", "POST", "/api/devices", kind, "root", "pencil", `{"command":"list"}`, 200},
	} {
		if status, answer := ask(tt.method, tt.path, tt.kind, tt.user, tt.password, tt.order); status != tt.want || (status == 200) != (answer["error"] == nil) {
			t.Errorf("%s: %d %v, want %d", tt.name, status, answer, tt.want)
		}
	}

	if _, answer := ask("POST", "/api/dead", kind, "root", "pencil", `{"command":"discard","bridge":"cloud"}`); answer["messages"] != 0.0 || answer["left"] != 0.0 {
		t.Errorf("dead letters that are thrown away: %v", answer)
	}
	status, answer := ask("POST", "/api/devices", kind, "root", "pencil", `{"command":"add","name":"valve-7"}`)
	secret, _ := answer["secret"].(string)
	if status != 200 || len(secret) < 32 {
		t.Fatalf("add: %d %v", status, answer)
	}
	device := func() error {
		c, err := client.Dial(t.Context(), "mqtts://"+address, client.Options{
			ClientID: "valve-7", Version: packet.V5, Username: "valve-7", Password: secret, TLS: nameless,
		})
		if err == nil {
			c.Close()
		}
		return err
	}
	eventually(t, 5*time.Second, "the new device is let in", func() bool { return device() == nil })
	if status, answer := ask("POST", "/api/bans", kind, "root", "pencil", `{"command":"add","ban":"client:valve-7","reason":"leaks"}`); status != 200 {
		t.Errorf("ban: %d %v", status, answer)
	}
	eventually(t, 5*time.Second, "the device is banned", func() bool { return device() != nil })
	if len(g.log.lines("pencil")) > 0 || len(g.log.lines(secret)) > 0 {
		t.Error("a secret is in the log")
	}
}
