package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/offline"
)

// TestVaultRestores: a store that could be opened, but of which nothing can be read a moment later, does
// not keep the broker from starting. What is left of it is saved; if not even that can be done, the
// broker begins without a store and gets one when it can.
func TestVaultRestores(t *testing.T) {
	for _, tt := range []struct {
		name   string
		hinder bool // there is no place for a new store
	}{{"it is replaced", false}, {"it cannot be replaced", true}} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			s, err := offline.Open(path, offline.Options{})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			changes := []session.Change{&session.Opened{Client: "device", Expiry: 0xFFFFFFFF, Version: packet.V5}}
			for n := range 20 { // pages of their own
				changes = append(changes, &session.Retained{Message: &session.Message{At: time.Now(), Publish: packet.Publish{
					QoS: 1, Topic: fmt.Sprint("retained/", n), Payload: make([]byte, 1000)}}})
			}
			s.Submit(changes, false, func(err error) { done <- err })
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}

			v := newVault(path, offline.Options{Log: slog.New(slog.DiscardHandler)})
			defer v.close()
			clearPages(t, path, "retained/")
			obstacle := path + ".new"
			if tt.hinder {
				if err := os.MkdirAll(filepath.Join(obstacle, "in the way"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			o := broker.Options{Store: v, Log: slog.New(slog.DiscardHandler)}
			server, err := broker.New(o)
			if tt.hinder {
				if err == nil || v.adopted() {
					t.Fatal("the broker began with a store that cannot be read")
				}
				o.Absent = err
				server, err = broker.New(o)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			if tt.hinder {
				if err := os.RemoveAll(obstacle); err != nil {
					t.Fatal(err)
				}
				if !v.open(nil, false) {
					t.Fatal("the store cannot be opened")
				}
				if err := server.Adopt(); err != nil {
					t.Fatal(err)
				}
			}
			if r := v.report(); !v.adopted() || r.State != offline.Ready || r.Saved == nil || r.Saved.Problems == 0 {
				t.Errorf("%+v, %+v", r, r.Saved)
			}
			device, err := server.Connect(broker.ClientOptions{ID: "device"})
			if err != nil {
				t.Fatal(err)
			}
			device.Close()
		})
	}
}

// clearPages destroys the pages of a store that have some text on them.
func clearPages(t *testing.T, path, text string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	n := 0
	for at := 2 * page; at+page <= len(content); at += page {
		if b := content[at : at+page]; bytes.Contains(b, []byte(text)) {
			clear(b)
			n++
		}
	}
	if n == 0 {
		t.Fatalf("no page has %q", text)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // the same file, which the store has mapped
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
}
