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

// TestRequests lets a client of the site ask one in the cloud, and the other way round, as MQTT 5.0
// provides for [MQTT-4.10]: whoever answers publishes on the response topic that it was given.
func TestRequests(t *testing.T) {
	cloud := newGateway(t)
	cloud.start()
	site := newGateway(t, fmt.Sprintf(`bridges:
  - name: cloud
    version: 5.0
    url: mqtt://%s
    backoff: {min: 100ms, max: 400ms}
    rules:
      - {direction: out, filter: up/#, local_prefix: hall/, remote_prefix: site7/, qos: 2}
      - {direction: in, filter: down/#, local_prefix: hall/, remote_prefix: site7/, qos: 2}
`, cloud.address))
	site.start()
	for _, tt := range []struct {
		what                   string
		asks, answers          *gateway
		ask, response          string // as who asks sees them
		question, responseSeen string // as who answers sees them
	}{
		{"a client of the site asks", site, cloud, "hall/up/ask", "hall/down/answer", "site7/up/ask", "site7/down/answer"},
		{"a client of the cloud asks", cloud, site, "site7/down/ask", "site7/up/answer", "hall/down/ask", "hall/up/answer"},
	} {
		questions, got := make(chan packet.Publish, 10), make(chan string, 10)
		answerer := tt.answers.connect(client.Options{ClientID: "answerer", Version: packet.V5, KeepAlive: 60, Receive: func(m packet.Publish) {
			questions <- m
		}})
		subscribe(t, answerer, tt.question, 2)
		asker := tt.asks.connect(client.Options{ClientID: "asker", Version: packet.V5, KeepAlive: 60, Receive: func(m packet.Publish) {
			got <- m.Topic + " " + string(m.Payload) + " " + string(m.Properties.CorrelationData)
		}})
		subscribe(t, asker, tt.response, 2)
		eventually(t, 20*time.Second, "the bridge is connected", func() bool {
			return len(site.log.lines("bridge connected")) > 0
		})
		m := packet.Publish{Topic: tt.ask, QoS: 1, Payload: []byte("?"),
			Properties: &packet.PublishProperties{ResponseTopic: tt.response, CorrelationData: []byte("7")}}
		if _, err := asker.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		var q packet.Publish
		select {
		case q = <-questions:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: no question arrived", tt.what)
		}
		if q.Properties.ResponseTopic != tt.responseSeen {
			t.Fatalf("%s: the response topic is %q, want %q", tt.what, q.Properties.ResponseTopic, tt.responseSeen)
		}
		m = packet.Publish{Topic: q.Properties.ResponseTopic, QoS: 1, Payload: []byte("!"),
			Properties: &packet.PublishProperties{CorrelationData: q.Properties.CorrelationData}}
		if _, err := answerer.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if s := receive(t, got); s != tt.response+" ! 7" {
			t.Errorf("%s: %q came back", tt.what, s)
		}
		asker.Close()
		answerer.Close()
	}
}
