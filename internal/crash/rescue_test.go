package crash

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/offline"
)

// TestRescuePoints damages a store, lets the gateway die at every crash point on the way to a new
// one, with a power cut, and starts it again: what can be read of the damaged one is there, as if
// it had not died, and the damaged one is still there, too.
func TestRescuePoints(t *testing.T) {
	needDisk(t)
	_, texts := points(t)
	damaged := map[string][]byte{"store.db": damagedStore(t)}
	want := salvaged(t, damaged)
	s := newSite(t, build(t, "points", texts), newDisk(), "")
	for _, name := range slices.Sorted(maps.Keys(rescue)) {
		for f := range fates {
			s.remount(damaged)
			s.expectDeath(name + "@1")
			s.cut(f)
			if got := salvaged(t, s.disk.image(allKept, s.random)); !slices.Equal(got, want) {
				t.Errorf("%s, %v: %d facts are left, want %d", name, f, len(got), len(want))
			}
		}
	}
	t.Logf("%d facts saved from a damaged store, as many after %d deaths on the way", len(want), len(rescue)*int(fates))
}

// damagedStore returns a store with a session, of whose messages some cannot be read.
func damagedStore(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	store, err := offline.Open(path, offline.Options{})
	if err != nil {
		t.Fatal(err)
	}
	opened := &session.Opened{Client: "local", Expiry: 3600, Version: packet.V5}
	store.Submit([]session.Change{opened}, true, nil)
	for i := range 500 {
		m := &session.Message{Publish: packet.Publish{Topic: "up/a", QoS: 1, Payload: payload(i)}}
		to := &session.Target{Client: "local", Incarnation: opened.Incarnation, QoS: 1}
		store.Submit([]session.Change{&session.Enqueued{Message: m, To: []*session.Target{to}}}, true, nil)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	for at := len(whole) - page; at >= 0; at -= page { // the first pages hold the tree together
		b := bytes.Clone(whole)
		clear(b[at+page/2 : at+page/2+100])
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := offline.Check(path); err == nil && len(r.Problems) > 0 && r.Messages > 400 {
			return b
		}
	}
	t.Fatal("no page of the store can be damaged")
	return nil
}

// salvaged opens a store among some files, and returns what is in it then. The damaged store must
// still be among the files.
func salvaged(t *testing.T, files map[string][]byte) (facts []string) {
	t.Helper()
	folder := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(folder, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(folder, "store.db")
	store, err := offline.Open(path, offline.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if aside, _ := filepath.Glob(path + ".corrupt-*"); len(aside) != 1 {
		t.Errorf("%d damaged stores are set aside, want one", len(aside))
	}
	err = offline.Dump(path, func(c session.Change) error {
		switch c := c.(type) {
		case *session.Enqueued:
			facts = append(facts, fmt.Sprintf("%d %s", c.To[0].Position, c.Message.Publish.Payload))
		case *session.Opened:
			facts = append(facts, c.Client)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

// TestKillThenCut kills a gateway that has just given its compacted store the name of the store, and
// takes the power from the next one: what that has acknowledged is not lost with the name.
func TestKillThenCut(t *testing.T) {
	needDisk(t)
	_, texts := points(t)
	apply(t, texts, oftenCompacted...)
	s := newSite(t, build(t, "points", texts), newDisk(), "3.1.1")
	s.begin()
	s.kill()
	for range 5 {
		s.expectDeath("offline.compact-renamed@1")
		s.expectDeath("offline.compact-written@1")
		s.cut(allLost)
		if faults := s.inspect(); len(faults) > 0 {
			s.fail("killed, then cut", faults)
		}
	}
}
