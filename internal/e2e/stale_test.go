package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// TestStaleCommand gives a command while the line to the cloud is cut. The cloud keeps it and
// delivers it when the line is back, as if it were new; the vent must not move. A command that is
// new moves it.
func TestStaleCommand(t *testing.T) {
	const maxAge = 2 * time.Second
	c := newCloud(t)
	line := newLink(t, c.address)
	g := newGateway(t, bridge(line.address(), c.file, c.valid("greenhouse")), `board: sim
outputs:
  - {point: down/vent, line: VENT, on: open, off: closed, safe: closed, max_age: 2s}
`)
	g.start()
	points, results := newBoard(), &inbox{}
	watcher := g.connect(client.Options{Receive: func(m packet.Publish) {
		if strings.HasSuffix(m.Topic, "/result") {
			results.add(m)
		}
		points.add(m)
	}})
	subscribe(t, watcher, "#", 1)
	subscribe(t, watcher, "$SYS/broker/bridge/cloud/state", 1)
	sender := c.connect("sender", client.Options{})
	command := func(word string) {
		t.Helper()
		m := packet.Publish{Topic: "greenhouse/down/vent/set", QoS: 1, Payload: []byte(word)}
		if _, err := sender.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	vent := func(word string) func() bool {
		return func() bool { return points.text("down/vent/state") == word }
	}
	state := func(word string) func() bool {
		return func() bool {
			for _, text := range slices.Backward(points.texts()) {
				if strings.HasPrefix(text, "$SYS/broker/bridge/cloud/state ") {
					return strings.Contains(text, `"state":"`+word+`"`)
				}
			}
			return false
		}
	}
	// insist gives a command until it is carried out: the bridge may not have subscribed yet, or may
	// still take the cloud's messages for old ones.
	insist := func(word string) {
		t.Helper()
		for range 5 {
			command(word)
			if within(t, 2*time.Second, vent(word)) {
				return
			}
		}
		t.Fatalf("the vent does not become %s", word)
	}
	eventually(t, 5*time.Second, "the bridge is up", state("connected"))
	insist("open")
	insist("closed")

	line.sever()
	eventually(t, 5*time.Second, "the bridge is down", state("down"))
	command("open")
	<-time.After(maxAge) // the command grows old
	before := len(results.texts())
	line.restore()
	eventually(t, 10*time.Second, "the command is refused as too old", func() bool {
		all := results.texts()
		return len(all) > before && strings.Contains(all[len(all)-1], `"expired"`)
	})
	if !vent("closed")() {
		t.Error("the old command opened the vent")
	}
	insist("open")
}
