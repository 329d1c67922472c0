package service_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker/auth/service"
)

// An order in the file is carried out once, while the gateway runs or when it begins, and what was accepted
// before is forgotten for good; one that cannot be carried out stays.
func TestPurges(t *testing.T) {
	sw := serveSwitchable(t)
	folder := t.TempDir()
	o := sw.options(filepath.Join(folder, "accepted"))
	orders := service.OpenPurges(filepath.Join(folder, "purges"))
	s := start(t, o)
	enters := func() bool { _, err := s.Authenticate(t.Context(), dev); return err == nil }
	accept := func() {
		t.Helper()
		sw.set(true, true)
		if !enters() {
			t.Fatal("the service does not let ann in")
		}
		sw.set(false, true)
		if !enters() {
			t.Fatal("ann does not come in without the service")
		}
	}
	accept()
	for _, p := range []service.Purge{{Client: "other"}, {User: "other"}, {Client: "dev-1", User: "other"}} {
		if err := orders.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { orders.Run(ctx, s.Purge, discard); close(done) }()
	defer func() { cancel(); <-done }()
	eventually := func(what string, holds func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("never: " + what)
			}
		}
	}
	empty := func() bool {
		b, err := os.ReadFile(filepath.Join(folder, "purges"))
		return err == nil && strings.Count(string(b), "\n") == 1
	}
	eventually("the orders are carried out", empty)
	if !enters() {
		t.Error("what was accepted of ann is forgotten with that of others")
	}
	for _, p := range []service.Purge{{Client: "dev-1"}, {User: "ann"}, {Client: "dev-1", User: "ann"}, {}} {
		accept()
		if err := orders.Add(p); err != nil {
			t.Fatal(err)
		}
		eventually("ann is forgotten", func() bool { return !enters() })
		eventually("the order is gone", empty)
	}
	cancel()
	<-done
	accept()
	if err := orders.Add(service.Purge{User: "ann"}); err != nil {
		t.Fatal(err)
	}
	orders.Begin(func(service.Purge) error { return errors.New("the disk is full") }, discard)
	if empty() {
		t.Error("an order that could not be carried out is gone")
	}
	orders.Begin(s.Purge, discard)
	if enters() || !empty() {
		t.Error("the order is not carried out at the next start")
	}
	s = start(t, o)
	if enters() {
		t.Error("after a restart ann is known again")
	}
}
