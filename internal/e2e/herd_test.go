package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gatewaybridge "gateway/bridge"
	"gateway/broker"
	"gateway/broker/packet"
	"gateway/internal/client"
	"gateway/offline"
)

// TestHerd lets many gateways lose the cloud at the same instant, for long enough that all
// wait as long as they ever do, and gives it back. They come one by one, spread over that time,
// each with what it has kept.
func TestHerd(t *testing.T) {
	const longest = 4 * time.Second // between two attempts of one gateway
	gateways := *herd
	c := newCloud(t)
	line := newLink(t, c.address)
	var mu sync.Mutex
	arrived := make(map[string]int)
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(arrived) }
	collector := c.connect("collector", client.Options{Receive: func(m packet.Publish) {
		mu.Lock()
		defer mu.Unlock()
		arrived[m.Topic]++
	}})
	subscribe(t, collector, "+/up/#", 1)

	quiet := slog.New(slog.DiscardHandler)
	store, err := offline.Open(filepath.Join(t.TempDir(), "store.db"), offline.Options{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	site, err := broker.New(broker.Options{Store: store, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		work.Wait()
		if err := site.Close(); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	pass := c.valid("greenhouse")
	config := c.client(pass)
	for i := range gateways {
		b, err := gatewaybridge.New(gatewaybridge.Config{
			Name: fmt.Sprint("cloud-", i), URLs: []string{"mqtts://" + line.address()}, ClientID: fmt.Sprint("greenhouse-", i),
			Rules: []gatewaybridge.Rule{{Direction: gatewaybridge.Out, Filter: "up/#", QoS: 1, RemotePrefix: fmt.Sprint(i, "/")}},
			TLS:   func() (*tls.Config, error) { return config, nil }, ConnectTimeout: 30 * time.Second, BackoffMin: 500 * time.Millisecond, BackoffMax: longest,
			Open: func(context.Context, int) (gatewaybridge.Session, error) {
				return site.Connect(broker.ClientOptions{ID: fmt.Sprint("$bridge/", i), SessionExpiry: broker.Never, ReceiveMaximum: 20})
			},
			Log: quiet,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Open(ctx); err != nil {
			t.Fatal(err)
		}
		work.Go(func() { _ = b.Run(ctx) }) // it ends with ctx
	}
	device, err := site.Connect(broker.ClientOptions{ID: "device", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	device.Publish(packet.Publish{Topic: "up/before", QoS: 1, ID: 1}, nil)
	eventually(t, 120*time.Second, "all gateways are connected", func() bool { return count() == gateways })

	line.sever()
	time.Sleep(3 * longest) // until all wait as long as they ever do
	device.Publish(packet.Publish{Topic: "up/after", QoS: 1, ID: 2}, nil)
	before := cpuTime(t, c.process.cmd.Process.Pid)
	began := line.restored()
	eventually(t, 120*time.Second, "what every gateway has kept arrives", func() bool { return count() == 2*gateways })
	took := time.Since(began)
	spent := cpuTime(t, c.process.cmd.Process.Pid) - before
	perSecond := line.perSecond(began)
	t.Logf("%d gateways were back in %v; connections/s, second by second: %v; %.2f ms CPU of the cloud for each", gateways,
		took.Round(100*time.Millisecond), perSecond, float64(spent.Milliseconds())/float64(gateways))
	// Waits are uniform up to the longest. The cloud returns somewhere in the middle of each, more likely
	// of a long one, so what is left is nearer to 0: less than a second of b with 1-(1-1/b)². The
	// number is binomial: four deviations are chance, and a twentieth of all a cloud that is slow.
	left := 1 - 1/longest.Seconds()
	share := 1 - left*left
	most := int(float64(gateways)*share + 4*math.Sqrt(float64(gateways)*share*(1-share)) + float64(gateways)/20)
	for i, n := range perSecond {
		if n > most {
			t.Errorf("%d of %d gateways came in second %d, want at most %d", n, gateways, i, most)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for topic, n := range arrived {
		if n != 1 && strings.HasSuffix(topic, "/after") {
			t.Errorf("%s arrived %d times", topic, n)
		}
	}
}

// cpuTime returns what a process has spent, user and system, from /proc/PID/stat in ticks of 10 ms.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
