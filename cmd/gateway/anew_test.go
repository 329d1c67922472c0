package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"gateway/config"
	"gateway/offline"
)

// TestStopLeavesNothing: a gateway that begins anew in the same process finds its ports, its lines and
// its store free, and nothing of the one before goes on.
func TestStopLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if out, err := command("ca", "--dir", filepath.Join(dir, "ca"), "init"); err != nil {
		t.Fatal(out, err)
	}
	if out, err := command("ca", "--dir", filepath.Join(dir, "ca"), "server", "localhost"); err != nil {
		t.Fatal(out, err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`gateway: {id: test, data: %s}
board: sim
outputs:
  - {point: hall/lamp, line: LAMP, safe: off}
listeners:
  - {name: local, address: %q, anonymous: true}
  - name: tls
    address: "127.0.0.1:0"
    tls: {cert: %[1]s/ca/localhost.crt, key: %[1]s/ca/localhost.key, client_ca: %[1]s/ca/ca.crt, crl: %[1]s/ca/ca.crl, require_certificate: true}
auth: {acl_file: %[1]s/acl}
bridges:
  - {name: cloud, url: "mqtt://127.0.0.1:1", rules: [{direction: out, filter: "a/#"}]}
`, dir, address)
	for name, text := range map[string]string{"gateway.yaml": text, "acl": "topic readwrite a/#\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.Load(filepath.Join(dir, "gateway.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	left := func() (goroutines, files int) {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(open)
	}
	const rounds = 20
	goroutines, files := left()
	for round := range rounds {
		g, err := start(c, slog.New(slog.DiscardHandler), offline.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.vault.get(); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		client, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err != nil {
			t.Errorf("round %d: nobody listens: %v", round, err)
		}
		if err := g.stop(); err != nil {
			t.Error(err)
		}
		if client != nil {
			client.Close()
		}
	}
	const once = rounds / 2 // what may be made once, and stay
	deadline := time.Now().Add(10 * time.Second)
	for {
		g, f := left()
		if g < goroutines+once && f < files+once {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines and %d files after %d rounds, %d and %d before", g, f, rounds, goroutines, files)
		}
		time.Sleep(10 * time.Millisecond) // what has ended is not gone at once
	}
}
