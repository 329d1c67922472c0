package e2e

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// TestFullClientStopsNobody has a client that is away and whose queue is full refuse what the cloud sends it.
// What goes up to the cloud goes on meanwhile, and when the client is back it gets everything, in order and
// once. A real mosquitto is the cloud.
func TestFullClientStopsNobody(t *testing.T) {
	for _, version := range []string{"3.1.1", "5.0"} {
		t.Run(version, func(t *testing.T) {
			c := newCloud(t)
			section := speaking(version, bridge(c.address, c.file, c.valid("greenhouse")))
			g := newGateway(t, section, "store: {queue: {messages: 5, full: refuse}}\n")
			g.start()
			sleeper := client.Options{ClientID: "sleeper", KeepSession: true}
			asleep := g.connect(sleeper)
			subscribe(t, asleep, "down/cmd/#", 2)
			asleep.Close()

			var mu sync.Mutex
			var up []string
			reader := c.connect("reader", client.Options{Receive: func(p packet.Publish) {
				mu.Lock()
				defer mu.Unlock()
				up = append(up, string(p.Payload))
			}})
			subscribe(t, reader, "greenhouse/up/#", 1)
			commander, local := c.connect("commander", client.Options{}), g.connect(client.Options{})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			const commands = 15
			for i := range commands {
				if _, err := commander.Publish(ctx, packet.Publish{Topic: "greenhouse/down/cmd/x", QoS: 2, Payload: fmt.Append(nil, i)}); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, 20*time.Second, "a message waits", func() bool { return len(g.log.lines("cannot take a message now")) > 0 })
			connected := len(g.log.lines("bridge connected"))
			for i := range 20 {
				if _, err := local.Publish(ctx, packet.Publish{Topic: "up/x", QoS: 1, Payload: fmt.Append(nil, i)}); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, 5*time.Second, "all that goes up arrives", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(up) >= 20
			})
			if n := len(g.log.lines("bridge connected")); n != connected {
				t.Errorf("the bridge has connected %d times more", n-connected)
			}

			var down []string
			sleeper.Receive = func(p packet.Publish) {
				mu.Lock()
				defer mu.Unlock()
				down = append(down, string(p.Payload))
			}
			g.connect(sleeper)
			eventually(t, 20*time.Second, "the client has all commands", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(down) >= commands
			})
			quietFor(t, func() int { mu.Lock(); defer mu.Unlock(); return len(down) })
			var want []string
			for i := range commands {
				want = append(want, fmt.Sprint(i))
			}
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(down, want) {
				t.Errorf("the client got %q", down)
			}
		})
	}
}

// quietFor waits until a count has stayed as it is for a second.
func quietFor(t *testing.T, count func() int) {
	t.Helper()
	last, since := count(), time.Now()
	eventually(t, 20*time.Second, "nothing more comes", func() bool {
		if n := count(); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > time.Second
	})
}

// TestFallbackFromASilentServer has the preferred server let the bridge in and acknowledge nothing.
func TestFallbackFromASilentServer(t *testing.T) {
	c := newCloud(t)
	var mu sync.Mutex
	got := 0
	reader := c.connect("reader", client.Options{Receive: func(packet.Publish) { mu.Lock(); defer mu.Unlock(); got++ }})
	subscribe(t, reader, "greenhouse/up/#", 1) // mosquitto has read its key, which the other one's takes the place of
	silent := c.impostor(t, func(nc net.Conn) { c.say(nc, &packet.Connack{SessionPresent: true}) })
	section := bridge(silent, c.file, c.valid("greenhouse"))
	g := newGateway(t, strings.Replace(section, "    keep_alive:", fmt.Sprintf("    fallback: [mqtts://%s]\n    return_after: 1h\n    keep_alive:", c.address), 1))
	g.start()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := g.connect(client.Options{}).Publish(ctx, packet.Publish{Topic: "up/x", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the message arrives through the other server", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return got > 0
	})
}
