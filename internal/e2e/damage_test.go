package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// TestStoreDamaged destroys pages of the store of a gateway that runs. It refuses what it cannot keep,
// says so, and begins anew without anybody's help, in the same process, with all that could be read.
// When that has just happened it does not happen again at once: local control goes on.
func TestStoreDamaged(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	g := newGateway(t)
	g.start()
	sleeper := client.Options{ClientID: "sleeper", Version: packet.V5, KeepSession: true, SessionExpiry: 3600, Session: client.NewSession()}
	asleep := g.connect(sleeper)
	subscribe(t, asleep, "queue/#", 1)
	if err := asleep.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
	retain := func(c *client.Client, text string) error {
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		for n := range 20 { // pages of their own
			_, err := c.Publish(limited, packet.Publish{Topic: fmt.Sprintf("%s/%d", text, n), QoS: 1, Retain: true, Payload: make([]byte, 1000)})
			if err != nil {
				return err
			}
		}
		return nil
	}
	device := g.connect(client.Options{ClientID: "device", Version: packet.V5})
	if _, err := device.Publish(ctx, packet.Publish{Topic: "queue/a", QoS: 1, Payload: []byte("kept")}); err != nil {
		t.Fatal(err)
	}
	if err := retain(device, "before"); err != nil {
		t.Fatal(err)
	}
	destroy(t, filepath.Join(g.folder, "store.db"), "before/")
	if err := retain(device, "before"); err == nil || !strings.Contains(err.Error(), packet.ImplementationSpecificError.String()) {
		t.Errorf("a message for a damaged store: %v", err)
	}
	eventually(t, 20*time.Second, "the gateway has begun anew", func() bool { return len(g.log.lines(running)) == 2 })

	states := make(chan string, 10)
	look := g.connect(client.Options{ClientID: "look", Receive: func(p packet.Publish) { states <- string(p.Payload) }})
	subscribe(t, look, "$SYS/broker/store/state", 0)
	await := func(words ...string) {
		t.Helper()
		select {
		case got := <-states:
			for _, word := range words {
				if !strings.Contains(got, word) {
					t.Fatalf("the store's state is %s, want %s", got, word)
				}
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("the store's state is not %q", words)
		}
	}
	await(`"state":"ready"`, `"salvaged":{"cause":"`, `"messages":1`)
	if aside, err := filepath.Glob(filepath.Join(g.folder, "store.db.corrupt-*")); err != nil || len(aside) != 1 {
		t.Errorf("set aside: %q, %v", aside, err)
	}
	in := &inbox{}
	sleeper.Receive = in.add
	if !g.connect(sleeper).Connack().SessionPresent {
		t.Error("the session is gone")
	}
	eventually(t, 10*time.Second, "what was acknowledged comes", func() bool { return len(in.texts()) == 1 })

	device = g.connect(client.Options{ClientID: "device", Version: packet.V5})
	if err := retain(device, "again"); err != nil {
		t.Fatal(err)
	}
	destroy(t, filepath.Join(g.folder, "store.db"), "again/")
	if err := retain(device, "again"); err == nil {
		t.Error("a damaged store has taken a message")
	}
	await(`"state":"damaged"`, `"remedy"`)
	g.worksWithoutStore(0)
	if n := len(g.log.lines(running)); n != 2 {
		t.Errorf("the gateway began %d times", n)
	}
	g.interrupt(5 * time.Second)
	g.start()
	g.worksWithoutStore(1)
}

// destroy clears the pages of a file that have some text on them.
func destroy(t *testing.T, path, text string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const page = 4096
	n := 0
	for at := 2 * page; at < len(content); at += page {
		if bytes.Contains(content[at:min(at+page, len(content))], []byte(text)) {
			if _, err := f.WriteAt(make([]byte, page), int64(at)); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	if n == 0 {
		t.Fatalf("no page has %q", text)
	}
}
