package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// TestUplinks leads a bridge to another gateway in every way that a line can be: a fallback behind a
// dead URL, WebSocket with mutual TLS, a key that is encrypted, and with both versions.
func TestUplinks(t *testing.T) {
	a := newAuthority(t, "site")
	server, site := a.valid("gateway"), a.valid("site")
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("needs openssl to encrypt a key: apt-get install openssl")
	}
	locked := site.key + ".locked"
	try(t, openssl, "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-in", site.key, "-out", locked, "-passout", "pass:open sesame")
	web, secure := freeAddress(t), freeAddress(t)
	cloud := newGateway(t, fmt.Sprintf(`  - name: web
    address: %s
    anonymous: true
    protocols: websocket
  - name: devices
    address: %s
    protocols: [mqtt, websocket]
    tls: {cert: %s, key: %s, client_ca: %s, require_certificate: true}
`, web, secure, server.cert, server.key, a.file))
	cloud.start()
	files := fmt.Sprintf("{ca: %s, cert: %s, key: %s, key_password: open sesame}", a.file, site.cert, locked)
	got := make(chan string, 10)
	c := cloud.connect(client.Options{ClientID: "listener", KeepAlive: 60, Receive: func(m packet.Publish) {
		got <- m.Topic + " " + string(m.Payload)
	}})
	subscribe(t, c, "up/#", 1)
	for i, tt := range []struct{ version, line string }{
		{"3.1.1", "url: ws://" + web},
		{"5.0", "url: ws://" + web + "/mqtt"},
		{"3.1.1", "url: wss://" + secure + "\n    tls: " + files},
		{"5.0", "url: mqtts://" + secure + "\n    tls: " + files},
		{"5.0", "url: mqtts://" + freeAddress(t) + "\n    fallback: [mqtt://127.0.0.1:1, wss://" + secure + "/mqtt]\n    tls: " + files},
	} {
		what := fmt.Sprintf("%s over %s", tt.version, strings.Fields(tt.line)[1])
		g := newGateway(t, fmt.Sprintf(`bridges:
  - name: cloud
    version: %s
    client_id: site-%d
    %s
    backoff: {min: 1m, max: 1m}
    rules: [{direction: out, filter: up/#}, {direction: in, filter: down/#, qos: 2}]
`, tt.version, i, tt.line))
		g.start()
		site := g.connect(client.Options{ClientID: "device", KeepAlive: 60, Receive: func(m packet.Publish) { got <- m.Topic }})
		subscribe(t, site, "down/#", 2)
		topic := fmt.Sprint("up/", i)
		if _, err := site.Publish(t.Context(), packet.Publish{Topic: topic, QoS: 1, Payload: []byte("1")}); err != nil {
			t.Fatal(err)
		}
		if s := receive(t, got); s != topic+" 1" {
			t.Fatalf("%s: %q arrived", what, s)
		}
		// The bridge sends after the cloud has its subscriptions.
		if _, err := c.Publish(t.Context(), packet.Publish{Topic: "down/" + topic, QoS: 2, Payload: []byte("1")}); err != nil {
			t.Fatal(err)
		}
		if s := receive(t, got); s != "down/"+topic {
			t.Fatalf("%s: %q came down", what, s)
		}
		g.interrupt(10 * time.Second)
	}
}
