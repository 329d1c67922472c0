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
// the reason, those behind it arrive. It can be listed, given back and thrown away, while the gateway
// runs and while it does not; when the rules allow it, it arrives.
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
	write(config, fmt.Sprintf("user root\nlistener %s 127.0.0.1\nallow_anonymous true\nacl_file %s\n", port, rules))
	var cloud *process
	got := make(chan string, 10)
	// allow lets the cloud start again, with some rules, and listens there.
	allow := func(topics ...string) {
		t.Helper()
		if cloud != nil {
			cloud.kill()
		}
		write(rules, "topic readwrite "+strings.Join(topics, "\ntopic readwrite ")+"\n")
		cloud = launch(t, "mosquitto", log, path, "-c", config)
		eventually(t, 5*time.Second, "mosquitto answers", func() bool {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
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
	closed := []string{"open/#", "gateway/#"}
	allow(closed...)
	g := newGateway(t, fmt.Sprintf(`bridges:
  - name: cloud
    version: 5.0
    url: mqtt://%s
    backoff: {min: 100ms, max: 400ms}
    rules:
      - {direction: out, filter: open/#}
      - {direction: out, filter: closed/#, qos: 2}
`, address))
	g.start()
	publish := func(topics ...string) {
		t.Helper()
		d := g.connect(client.Options{ClientID: "device", KeepAlive: 60})
		defer d.Close()
		for i, topic := range topics {
			if _, err := d.Publish(t.Context(), packet.Publish{Topic: topic, QoS: 1 + packet.QoS(i%2), Payload: []byte("1")}); err != nil {
				t.Fatal(err)
			}
		}
	}
	letters := func(flags ...string) string {
		t.Helper()
		out, err := exec.Command(binary, append([]string{"store", "dead", filepath.Join(g.folder, "store.db")}, flags...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("store dead: %v: %s", err, out)
		}
		return string(out)
	}
	listed := func(topics ...string) {
		t.Helper()
		var out string
		if !within(t, 15*time.Second, func() bool {
			out = letters()
			ok := strings.Count(out, "\n") == len(topics)
			for _, topic := range topics {
				ok = ok && strings.Contains(out, `"topic":"`+topic+`"`) && strings.Contains(out, "Not authorized")
			}
			return ok
		}) {
			t.Fatalf("store dead, want %q: %s", topics, out)
		}
	}

	// While the gateway runs.
	publish("open/a", "closed/b", "open/c", "closed/d")
	for _, want := range []string{"open/a 1", "open/c 1"} {
		if s := receive(t, got); s != want {
			t.Fatalf("%q arrived, want %q", s, want)
		}
	}
	listed("closed/b", "closed/d")
	if out := letters("--replay", "cloud"); !strings.HasPrefix(out, "2 messages are") {
		t.Fatal(out)
	}
	listed("closed/b", "closed/d") // the cloud has refused them again
	if out := letters("--discard", "cloud"); !strings.HasPrefix(out, "2 dead letters of cloud are thrown away") {
		t.Fatal(out)
	}
	listed()
	publish("closed/e", "closed/f")
	listed("closed/e", "closed/f")
	allow("#")
	if out := letters("--replay", "cloud"); !strings.HasPrefix(out, "2 messages are") {
		t.Fatal(out)
	}
	for _, want := range []string{"closed/e 1", "closed/f 1"} {
		if s := receive(t, got); s != want {
			t.Fatalf("%q arrived, want %q", s, want)
		}
	}
	listed()
	if out, err := exec.Command(binary, "store", "dead", filepath.Join(g.folder, "store.db"), "--replay", "clod").CombinedOutput(); err == nil || !strings.Contains(string(out), `there is no bridge "clod"`) {
		t.Errorf("a bridge that is not there: %v: %s", err, out)
	}

	// More than one answer has room for, and more than one order takes.
	allow(closed...)
	const many = 1100
	var topics []string
	for i := range many {
		topics = append(topics, fmt.Sprint("closed/", i))
	}
	publish(topics...)
	listed(topics...)
	if out := letters("--replay", "cloud"); !strings.HasPrefix(out, "1100 messages are") {
		t.Fatal(out)
	}
	listed(topics...)
	if out := letters("--discard", "cloud"); !strings.HasPrefix(out, "1100 dead letters") {
		t.Fatal(out)
	}
	listed()

	// While it does not.
	allow(closed...)
	publish("closed/g", "closed/h")
	listed("closed/g", "closed/h")
	g.interrupt(10 * time.Second)
	listed("closed/g", "closed/h")
	allow("#")
	if out := letters("--replay", "cloud"); !strings.HasPrefix(out, "2 messages are") {
		t.Fatal(out)
	}
	listed()
	g.start()
	for _, want := range []string{"closed/g 1", "closed/h 1"} {
		if s := receive(t, got); s != want {
			t.Fatalf("%q arrived, want %q", s, want)
		}
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
