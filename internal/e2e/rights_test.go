package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// TestRightsThroughRestart takes a rule away with a restart. What was queued by it before, and what is published
// after it, does not reach its client, who gets the rest. "gateway explain" says the same.
func TestRightsThroughRestart(t *testing.T) {
	const gone = "    - {allow: subscribe, topics: secret/#, clients: anna}\n"
	g := newGateway(t, "auth:\n  rules:\n    - {allow: [publish, subscribe], topics: pub/#}\n    - {allow: publish, topics: secret/#}\n"+gone)
	in := &inbox{}
	anna := func() *client.Client {
		return g.connect(client.Options{Version: packet.V5, ClientID: "anna", KeepSession: true, SessionExpiry: 3600, Receive: in.add})
	}
	publish := func(payload string) {
		t.Helper()
		c := g.connect(client.Options{Version: packet.V5, ClientID: "other"})
		defer c.Close()
		for _, topic := range []string{"secret/a", "pub/a"} {
			if reason, err := c.Publish(t.Context(), packet.Publish{Topic: topic, Payload: []byte(payload), QoS: 1}); err != nil || reason.Failed() {
				t.Fatal(reason, err)
			}
		}
	}
	explained := func() string {
		return try(t, binary, "explain", "--client", "anna", "receive", "secret/a", g.config)
	}
	g.start()
	c := anna()
	subscribe(t, c, "secret/#", 1)
	subscribe(t, c, "pub/#", 1)
	c.Close()
	publish("before")
	if got := explained(); !strings.HasPrefix(got, "allowed: ") {
		t.Error(got)
	}
	g.interrupt(10 * time.Second)

	text, err := os.ReadFile(g.config)
	if err == nil {
		err = os.WriteFile(g.config, []byte(strings.Replace(string(text), gone, "", 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	g.start()
	publish("after")
	c = anna()
	publish("now")
	want := []string{"before", "after", "now"}
	eventually(t, 10*time.Second, "the messages that are left come", func() bool { return slices.Equal(in.texts(), want) })
	if reasons, err := c.Subscribe(t.Context(), packet.Subscription{Filter: "secret/#"}); err != nil || reasons[0] != packet.NotAuthorized {
		t.Errorf("%v, %v", reasons, err)
	}
	if got := in.texts(); !slices.Equal(got, want) {
		t.Errorf("anna gets %q, want %q", got, want)
	}
	if got := explained(); got != "denied: it may not subscribe to it: no rule of section auth allows it" {
		t.Error(got)
	}
}
