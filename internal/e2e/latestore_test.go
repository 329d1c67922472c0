package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// TestStoreInUse starts a gateway on a store that another process has. It runs, says so, refuses what
// would have to be kept, and takes it once the store is free, without a restart.
func TestStoreInUse(t *testing.T) {
	g := newGateway(t)
	lock, err := os.OpenFile(filepath.Join(g.folder, "store.db.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	g.start()
	states := make(chan string, 10)
	look := g.connect(client.Options{ClientID: "look", Receive: func(p packet.Publish) { states <- string(p.Payload) }})
	subscribe(t, look, "$SYS/broker/store/state", 0)
	await := func(state string) {
		t.Helper()
		select {
		case got := <-states:
			if !strings.Contains(got, `"state":"`+state+`"`) {
				t.Fatalf("the store's state is %s, want %s", got, state)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("the store is not %s", state)
		}
	}
	await("in_use")
	g.worksWithoutStore(0)
	device := g.connect(client.Options{ClientID: "device", Version: packet.V5})
	put := func() error {
		limited, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := device.Publish(limited, packet.Publish{Topic: "reading", QoS: 1, Payload: []byte("1")})
		return err
	}
	if err := put(); err == nil || !strings.Contains(err.Error(), packet.ImplementationSpecificError.String()) {
		t.Errorf("a message without a store: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	await("ready")
	if err := put(); err != nil {
		t.Errorf("a message after the store was opened: %v", err)
	}
}
