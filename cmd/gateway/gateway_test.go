package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
	"gateway/config"
	"gateway/offline"
)

// TestFirstMessage publishes as soon as anybody can, at the very first start: the queue for the
// cloud takes it, although the cloud is not there.
func TestFirstMessage(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.yaml")
	text := fmt.Sprintf(`gateway: {id: test, data: %s}
board: sim
bridges:
  - {name: first, url: "mqtt://127.0.0.1:1", rules: [{direction: out, filter: "a/#"}]}
  - {name: second, url: "mqtt://127.0.0.1:1", rules: [{direction: out, filter: "a/#"}]}
`, dir)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	g, err := start(c, slog.New(slog.DiscardHandler), offline.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.stop(); err != nil {
			t.Error(err)
		}
	}()
	device, err := g.server.Connect(broker.ClientOptions{ID: "device", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	answer := make(chan packet.ReasonCode, 1)
	device.Publish(packet.Publish{Topic: "a/b", QoS: 1, ID: 1}, func(r packet.ReasonCode) { answer <- r })
	select {
	case r := <-answer:
		if r != packet.Success {
			t.Errorf("the first message: %v", r)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no answer")
	}
	for _, name := range []string{"first", "second"} {
		if n, _ := g.vault.count("$bridge/" + name); n != 1 {
			t.Errorf("%d messages wait for the cloud %s, want 1", n, name)
		}
	}
}
