package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gatewaybridge "gateway/bridge"
	"gateway/broker/packet"
	"gateway/internal/client"
)

// An arrival is a message as the cloud got it.
type arrival struct {
	payload    string
	historical bool
	at         time.Time
}

// replayed lets a gateway collect messages while the line is cut, restores the line, and publishes
// fresh ones at once. It returns all as they arrived in the cloud.
func replayed(t *testing.T, version, replay string, backlog, fresh int) (arrivals []arrival, restored time.Time) {
	t.Helper()
	c := newCloud(t)
	line := newLink(t, c.address)
	var mu sync.Mutex
	consumer := c.connect("consumer", client.Options{Version: packet.V5, Receive: func(m packet.Publish) {
		a := arrival{payload: string(m.Payload), at: time.Now()}
		if m.Properties != nil {
			a.historical = slices.Contains(m.Properties.User, packet.UserProperty{Name: gatewaybridge.HistoricalProperty, Value: "1"})
		}
		mu.Lock()
		defer mu.Unlock()
		arrivals = append(arrivals, a)
	}})
	subscribe(t, consumer, "greenhouse/up/#", 1)
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(arrivals)
	}
	section := speaking(version, bridge(line.address(), c.file, c.valid("greenhouse")))
	if replay != "" { // slowly enough to be overtaken
		section = strings.Replace(section, "    rules:\n", "    replay_rate: {messages: 400}\n    rules:\n", 1)
	}
	g := newGateway(t, strings.Replace(section, "{direction: out, filter: up/#, qos: 2,", "{direction: out, filter: up/#, qos: 2, "+replay, 1))
	g.start()
	d := g.connect(client.Options{ClientID: "device", KeepAlive: 60, Window: 100})
	number := 0
	send := func(n int) {
		t.Helper()
		for range n {
			p := packet.Publish{Topic: "up/log", QoS: 1, Payload: fmt.Append(nil, number)}
			if err := d.Send(t.Context(), p, func(code packet.ReasonCode, err error) {
				if err != nil || code.Failed() {
					t.Errorf("publish: %s, %v", code, err)
				}
			}); err != nil {
				t.Fatal(err)
			}
			number++
		}
		if err := d.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	send(1)
	eventually(t, 10*time.Second, "the first message arrives", func() bool { return count() == 1 })
	line.sever()
	send(backlog)
	line.restore()
	restored = time.Now()
	if fresh > 0 {
		eventually(t, 10*time.Second, "the backlog begins to arrive", func() bool { return count() > 1 })
		send(fresh)
	}
	eventually(t, 60*time.Second, "everything arrives", func() bool { return count() >= 1+backlog+fresh })
	mu.Lock()
	defer mu.Unlock()
	return slices.Clone(arrivals), restored
}

// TestLiveFirst lets fresh messages overtake a backlog that leaves slowly. Each of the two keeps its
// order, and the cloud can tell them apart.
func TestLiveFirst(t *testing.T) {
	const backlog, fresh = 1200, 100
	arrivals, _ := replayed(t, "5.0", "replay: live_first,", backlog, fresh)
	if len(arrivals) != 1+backlog+fresh {
		t.Fatalf("%d messages arrived, not %d", len(arrivals), 1+backlog+fresh)
	}
	last := map[bool]int{true: -1, false: -1}
	var overtaken int // backlog that came after the last fresh message
	for _, a := range arrivals {
		var n int
		if _, err := fmt.Sscan(a.payload, &n); err != nil {
			t.Fatal(err)
		}
		if old := n >= 1 && n <= backlog; old != a.historical {
			t.Fatalf("message %d: historical is %t", n, a.historical)
		}
		if n <= last[a.historical] {
			t.Errorf("message %d came after %d", n, last[a.historical])
		}
		if last[a.historical] = n; a.historical {
			overtaken++
		} else {
			overtaken = 0
		}
	}
	t.Logf("%d of %d messages of the backlog came after the last fresh one", overtaken, backlog)
	if overtaken < backlog/2 {
		t.Errorf("fresh messages waited: only %d of %d messages of the backlog came after them", overtaken, backlog)
	}
}

// TestStrictReplay keeps one order, and prints how fast a backlog leaves.
func TestStrictReplay(t *testing.T) {
	for _, version := range []string{"3.1.1", "5.0"} {
		t.Run(version, func(t *testing.T) {
			const backlog = 20_000
			arrivals, restored := replayed(t, version, "", backlog, 0)
			for i, a := range arrivals[:1+backlog] {
				if a.payload != fmt.Sprint(i) || a.historical {
					t.Fatalf("arrival %d is %q, historical %t", i, a.payload, a.historical)
				}
			}
			took := arrivals[backlog].at.Sub(arrivals[1].at)
			rate := float64(backlog) / took.Seconds()
			t.Logf("%d messages in %v, %.0f/s; the first %v after the line came back", backlog, took.Round(time.Millisecond), rate,
				arrivals[1].at.Sub(restored).Round(time.Millisecond))
			if rate < 2000 { // a machine with other work has slow moments
				t.Errorf("%.0f messages a second", rate)
			}
		})
	}
}
