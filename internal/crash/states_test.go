package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestEveryState records what a gateway does to its disk, from the creation of the store on, and
// when it acknowledges. Then it looks at what a power cut after each single operation may leave
// behind: a sound store with every message that was acknowledged before.
func TestEveryState(t *testing.T) {
	needDisk(t)
	d := newDisk()
	d.records = true
	s := newSite(t, product(t), d, "")
	s.start()
	s.sleeper()
	s.peers.start(t)
	for deadline := time.Now().Add(20 * time.Second); s.book.sum().acked < *rounds*10; {
		if time.Now().After(deadline) {
			t.Fatalf("too little was acknowledged: %v", s.book.sum())
		}
		time.Sleep(time.Millisecond) // a poll with a deadline
	}
	s.disk.fail()
	s.kill()
	s.peers.stop()

	begin, acked, states := time.Now(), backlog{atLocal: {}}, 0
	again := newDisk()
	for _, o := range d.log {
		again.apply(o)
		if o.kind == opMark {
			acked[atLocal][o.name] = append(acked[atLocal][o.name], int(o.off))
			continue
		}
		for f := range fates {
			states++
			if faults := examine(t, again.image(f, s.random), acked, s.random.IntN(50) == 0); len(faults) > 0 {
				s.fail(fmt.Sprintf("after %v, %v", o, f), faults)
			}
		}
	}
	t.Logf("%d states after %d operations, with up to %d messages acknowledged, in %v: none lost, every store sound",
		states, len(d.log), s.book.sum().acked, time.Since(begin).Round(time.Second))
}

// examine looks at what is left in a folder, and with open starts a store on it.
func examine(t *testing.T, left map[string][]byte, acked backlog, open bool) []string {
	t.Helper()
	folder, err := os.MkdirTemp(builds, "state-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	for name, b := range left {
		if err := os.WriteFile(filepath.Join(folder, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(folder, "store.db")
	in, faults := readStore(path)
	if len(faults) == 0 && open {
		faults = openStore(path)
	}
	if len(faults) > 0 {
		return faults
	}
	book := newLedger()
	for topic, numbers := range acked[atLocal] {
		book.accounts[topic] = accountOf(0, numbers, nil, atLocal)
	}
	return append(book.lost(in.queues), book.wrong()...)
}
