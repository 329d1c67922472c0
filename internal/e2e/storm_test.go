package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

var stormTime = flag.Duration("storm", 2*time.Second, "how long TestPasswordStorm lasts; from a minute on its latencies count")

// TestPasswordStorm refuses logins with wrong passwords, whose hashes take a processor all the time there
// is, while a hundred good clients work: they go on, and memory does not grow with the refusals.
func TestPasswordStorm(t *testing.T) {
	dir := t.TempDir()
	passwords := filepath.Join(dir, "passwords")
	try(t, binary, "passwd", "-b", passwords, "anna", "pencil")
	address := freeAddress(t)
	g := newGateway(t, fmt.Sprintf("  - {name: devices, address: %q, auth: passwords}\nauth: {password_file: %s}\n"+
		"limits: {failed_logins: 1000, connect_rate: 10000, connections: 2000, handshakes: 1000}\n", address, passwords))
	g.start()
	const good = 100
	var clients []*client.Client
	for i := range good {
		clients = append(clients, g.connect(client.Options{ClientID: fmt.Sprint("good-", i)}))
	}
	work := func(d time.Duration) (p99 time.Duration) {
		var mu sync.Mutex
		var took []time.Duration
		var wg sync.WaitGroup
		end := time.Now().Add(d)
		for _, c := range clients {
			wg.Go(func() {
				for time.Now().Before(end) {
					begin := time.Now()
					if _, err := c.Publish(t.Context(), packet.Publish{Topic: "good", QoS: 1}); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					took = append(took, time.Since(begin))
					mu.Unlock()
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		slices.Sort(took)
		return took[len(took)*99/100]
	}
	before := work(*stormTime)
	memory := resident(t, g.cmd.Process.Pid)
	ctx, cancel := context.WithCancel(t.Context())
	var refused, wrong atomic.Int64
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				// One in ten has the name of somebody.
				o := client.Options{ClientID: fmt.Sprintf("bad-%d-%d", i, n), Username: fmt.Sprint("nobody-", n), Password: "wrong", Version: packet.V5}
				if n%10 == 0 {
					o.Username = "anna"
				}
				c, err := client.Dial(ctx, "mqtt://"+address, o)
				if err == nil {
					c.Close()
					t.Error("let in")
					return
				}
				if e, ok := errors.AsType[*client.Error](err); ok {
					refused.Add(1)
					if e.Reason == packet.BadUserNameOrPassword {
						wrong.Add(1)
					}
				}
			}
		})
	}
	began := time.Now()
	during := work(*stormTime)
	seconds := time.Since(began).Seconds()
	cancel()
	wg.Wait()
	grown := resident(t, g.cmd.Process.Pid) - memory
	t.Logf("p99 %v before, %v during %.0f refusals a second, %d of them for the password; memory %d KiB, grown by %d KiB",
		before, during, float64(refused.Load())/seconds, wrong.Load(), memory>>10, grown>>10)
	if refused.Load() == 0 {
		t.Error("nobody was refused")
	}
	if grown > 32<<20 {
		t.Errorf("memory has grown by %d bytes", grown)
	}
	if *stormTime >= time.Minute && during > 2*before+50*time.Millisecond {
		t.Errorf("good clients waited %v, before it was %v", during, before)
	}
}
