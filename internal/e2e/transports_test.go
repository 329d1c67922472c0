package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/internal/client"
)

// A line is one way to reach the gateway.
type line struct {
	name, url string
	tls       bool // the client checks the gateway's certificate
	mutual    bool // and shows its own
}

// transports starts a gateway with a listener of every kind, and returns the ways to it.
func transports(t *testing.T) (a *authority, device pair, lines []line) {
	t.Helper()
	a = newAuthority(t, "site")
	server, device := a.valid("gateway"), a.valid("device")
	web, secure, mutual := freeAddress(t), freeAddress(t), freeAddress(t)
	socket := filepath.Join(t.TempDir(), "mqtt.sock")
	g := newGateway(t, fmt.Sprintf(`  - name: web
    address: %s
    anonymous: true
    protocols: websocket
    websocket: {origins: "https://app.example.com"}
  - name: everything
    address: %s
    anonymous: true
    protocols: [mqtt, websocket, http]
    tls: {cert: %s, key: %s, plain: true}
  - name: devices
    address: %s
    protocols: [mqtt, websocket]
    tls: {cert: %s, key: %s, client_ca: %s, require_certificate: true}
  - name: socket
    address: unix:%s
    anonymous: true
    socket: {mode: 0600}
`, web, secure, server.cert, server.key, mutual, server.cert, server.key, a.file, socket))
	g.start()
	return a, device, []line{
		{"plain", "mqtt://" + g.address, false, false},
		{"WebSocket", "ws://" + web, false, false},
		{"one port plain", "mqtt://" + secure, false, false},
		{"one port TLS", "mqtts://" + secure, true, false},
		{"one port WebSocket", "ws://" + secure, false, false},
		{"one port WebSocket and TLS", "wss://" + secure, true, false},
		{"mutual TLS", "mqtts://" + mutual, true, true},
		{"WebSocket and mutual TLS", "wss://" + mutual, true, true},
		{"socket", "unix://" + socket, false, false},
	}
}

// try runs a program that has to end well within 15 seconds, and returns what it printed.
func try(t *testing.T, path string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", filepath.Base(path), strings.Join(args, " "), err, out)
	}
	return string(bytes.TrimSpace(out))
}

// TestTransports reaches every kind of listener with the clients that people use.
func TestTransports(t *testing.T) {
	a, device, lines := transports(t)
	m := &matrix{a, device, lines}
	t.Run("gateway", func(t *testing.T) {
		for i, l := range lines {
			for _, version := range []string{"311", "5"} {
				topic := fmt.Sprintf("matrix/gateway/%d/%s", i, version)
				args := append([]string{"--url", l.url, "-V", version, "-q", "1"}, m.certificates(l, "--cafile", "--cert", "--key")...)
				try(t, binary, append(append([]string{"pub", "-r"}, args...), topic, "hello")...)
				if got := try(t, binary, append(append([]string{"sub", "-C", "1", "-W", "10"}, args...), topic)...); got != topic+" hello" {
					t.Errorf("%s, %s: got %q", l.name, version, got)
				}
			}
		}
	})
	t.Run("mosquitto", m.mosquitto)
	t.Run("mosquitto_rr", m.request)
	t.Run("MQTT.js", m.mqttJS)
	t.Run("Paho for Python", m.pahoPython)
	t.Run("Paho for Go", m.pahoGo)
	t.Run("Paho for Go, 5.0", m.pahoGo5)
	t.Run("health", func(t *testing.T) {
		client := http.Client{Transport: &http.Transport{TLSClientConfig: a.client(device), DisableKeepAlives: true}, Timeout: 10 * time.Second}
		_, address, _ := strings.Cut(lines[2].url, "://")
		for _, scheme := range []string{"http://", "https://"} {
			r, err := client.Get(scheme + address + "/health")
			if err != nil {
				t.Fatal(err)
			}
			r.Body.Close()
			if r.StatusCode != http.StatusOK {
				t.Errorf("%s: %s", scheme, r.Status)
			}
		}
	})
	t.Run("no certificate", func(t *testing.T) {
		_, address, _ := strings.Cut(lines[6].url, "://")
		config := a.client(device)
		config.Certificates = nil
		nc, err := tls.Dial("tcp", address, config)
		if err == nil { // with TLS 1.3 the refusal comes after the handshake
			_, err = nc.Read(make([]byte, 1))
			nc.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("got %v, want the alert that a certificate is required", err)
		}
	})
}

// TestRevocation puts a certificate on the list while the gateway runs: its client is disconnected,
// another stays.
func TestRevocation(t *testing.T) {
	a := newAuthority(t, "site")
	server, address := a.valid("gateway"), freeAddress(t)
	g := newGateway(t, fmt.Sprintf(`  - name: devices
    address: %s
    tls: {cert: %s, key: %s, client_ca: %s, crl: %s, require_certificate: true}
`, address, server.cert, server.key, a.file, a.revoke()))
	g.start()
	connect := func(p pair) (*client.Client, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return client.Dial(ctx, "mqtts://"+address, client.Options{TLS: a.client(p)})
	}
	good, stolen := a.valid("good"), a.valid("stolen")
	stays, err := connect(good)
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close()
	goes, err := connect(stolen)
	if err != nil {
		t.Fatal(err)
	}
	defer goes.Close()
	a.revoke(stolen)
	eventually(t, 15*time.Second, "the stolen certificate's client is disconnected", func() bool { return goes.Err() != nil })
	if c, err := connect(stolen); err == nil {
		c.Close()
		t.Error("the stolen certificate is let in")
	}
	if err := stays.Err(); err != nil {
		t.Errorf("the other client is disconnected: %v", err)
	}
	if len(g.log.lines("certificate=stolen", "revoked")) == 0 {
		t.Error("the log does not tell of it")
	}
}

// mqttJS installs MQTT.js into the user's cache, once, and returns the path of node.
func mqttJS(t *testing.T) string {
	t.Helper()
	const release = "mqtt@5.14.1"
	node, err := exec.LookPath("node")
	if err != nil {
		lacks(t, "node is missing: apt-get install nodejs npm")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		lacks(t, "no folder for MQTT.js: %v", err)
	}
	dir := filepath.Join(cache, "gateway-tests", release)
	t.Setenv("MQTTJS", filepath.Join(dir, "x.js")) // it is looked up from here
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "mqtt")); err == nil {
		return node
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		lacks(t, "npm is missing: apt-get install npm")
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	// It has its name only when it is complete.
	draft, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(draft)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, npm, "install", "--prefix", draft, "--ignore-scripts", "--no-audit", "--no-fund", release)
	if out, err := install.CombinedOutput(); err != nil {
		lacks(t, "npm install %s: %v: without the registry of npm this is not tested\n%s", release, err, out)
	}
	if err := os.Rename(draft, dir); err != nil {
		t.Fatal(err)
	}
	return node
}
