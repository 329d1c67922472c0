package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// TestDeadLetters lets the cloud refuse a message by its access rules. The message is put aside with
// the reason, those behind it arrive; when the rules allow it, it can be given back, and arrives.
func TestDeadLetters(t *testing.T) {
	path := mosquitto(t, "mosquitto")
	address, log, folder := freeAddress(t), &output{}, t.TempDir()
	showOnFailure(t, "mosquitto", log)
	_, port, _ := net.SplitHostPort(address)
	rules, config := filepath.Join(folder, "acl"), filepath.Join(folder, "mosquitto.conf")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(rules, "topic readwrite open/#\ntopic readwrite gateway/#\n")
	write(config, fmt.Sprintf("user root\nlistener %s 127.0.0.1\nallow_anonymous true\nacl_file %s\n", port, rules))
	mosquitto := launch(t, "mosquitto", log, path, "-c", config)
	answers := func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	eventually(t, 5*time.Second, "mosquitto answers", answers)
	got := make(chan string, 10)
	listen := func() {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := client.Dial(ctx, "mqtt://"+address, client.Options{ClientID: "listener", KeepAlive: 60, Receive: func(m packet.Publish) {
			got <- m.Topic + " " + string(m.Payload)
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		subscribe(t, c, "open/#", 1)
		subscribe(t, c, "closed/#", 1)
	}
	listen()
	g := newGateway(t, fmt.Sprintf(`bridges:
  - name: cloud
    version: 5.0
    url: mqtt://%s
    backoff: {min: 100ms, max: 400ms}
    rules:
      - {direction: out, filter: open/#}
      - {direction: out, filter: closed/#}
`, address))
	g.start()
	d := g.connect(client.Options{ClientID: "device", KeepAlive: 60})
	for _, topic := range []string{"open/a", "closed/b", "open/c"} {
		if _, err := d.Publish(t.Context(), packet.Publish{Topic: topic, QoS: 1, Payload: []byte("1")}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"open/a 1", "open/c 1"} {
		if s := receive(t, got); s != want {
			t.Fatalf("%q arrived, want %q", s, want)
		}
	}
	store := filepath.Join(g.folder, "store.db")
	letters := func(flags ...string) string {
		t.Helper()
		out, err := exec.Command(binary, append([]string{"store", "dead", store}, flags...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("store dead: %v: %s", err, out)
		}
		return string(out)
	}
	g.interrupt(10 * time.Second)
	if out := letters(); strings.Count(out, "\n") != 1 || !strings.Contains(out, `"topic":"closed/b"`) || !strings.Contains(out, "Not authorized") {
		t.Fatalf("store dead: %s", out)
	}
	mosquitto.kill()
	write(rules, "topic readwrite #\n")
	launch(t, "mosquitto", log, path, "-c", config)
	eventually(t, 5*time.Second, "mosquitto answers", answers)
	listen()
	if out := letters("--replay", "cloud"); !strings.HasPrefix(out, "1 messages") {
		t.Fatal(out)
	}
	if out := letters(); out != "" {
		t.Fatalf("after the replay there are still: %s", out)
	}
	g.start()
	if s := receive(t, got); s != "closed/b 1" {
		t.Fatalf("%q arrived", s)
	}
}

func receive(t *testing.T, got <-chan string) string {
	t.Helper()
	select {
	case s := <-got:
		return s
	case <-time.After(15 * time.Second):
		t.Fatal("nothing arrived")
		return ""
	}
}
