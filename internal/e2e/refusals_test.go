package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"gateway/broker/packet"
	"gateway/internal/client"
)

var refusals = flag.Duration("refusals", 3*time.Second, "how long TestRefusals and TestPasswordStorm last; from a minute on their latencies count")

// A regular publishes to itself now and then, and notes how long that takes.
type regular struct {
	c    *client.Client
	sent time.Time
	came chan time.Duration // of size 1: there is one message under way
}

// regulars are a hundred clients that work.
func regulars(t *testing.T, url string, o client.Options) (all []*regular) {
	t.Helper()
	for i := range 100 {
		r := &regular{came: make(chan time.Duration, 1)}
		o.ClientID, o.Receive = fmt.Sprint("good-", i), func(packet.Publish) { r.came <- time.Since(r.sent) }
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		var err error
		r.c, err = client.Dial(ctx, url, o)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.c.Close)
		subscribe(t, r.c, fmt.Sprint("good/", i), 1)
		all = append(all, r)
	}
	return all
}

// TestRefusals works with a hundred clients while two thousand logins a second are refused: the
// memory of the gateway stays what it was, every client goes on, and the log has a bounded size.
func TestRefusals(t *testing.T) {
	p := newPorch(t)
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.Replace(string(text), "limits: {failed_logins: 1000, ", "limits: {connect_rate: 5000, ", 1))
	if err := os.WriteFile(p.config, []byte(strings.Replace(string(text), "log: debug", "log: info", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	secret := p.device("add", "dev")
	p.start()
	url := p.urls["device TCP"]
	withstand(t, p.gateway, regulars(t, url, client.Options{Username: "dev", Password: secret}), url, 32)
}

// TestPasswordStorm is the same with passwords, whose hashes take all the time that they get, and so many
// clients at a time that some find no place to wait. Nobody is held off for having failed.
func TestPasswordStorm(t *testing.T) {
	passwords, address := filepath.Join(t.TempDir(), "passwords"), freeAddress(t)
	try(t, binary, "passwd", "-b", passwords, "dev", "pencil")
	g := newGateway(t, fmt.Sprintf("  - {name: devices, address: %q, auth: passwords}\nauth: {password_file: %s}\n"+
		"limits: {failed_logins: 1000, connect_rate: 5000, connections: 2000, handshakes: 1000}\n", address, passwords))
	g.start()
	withstand(t, g, regulars(t, "mqtt://"+g.address, client.Options{}), "mqtt://"+address, 150)
}

// withstand lets clients work, alone and while so many others at a time are refused, and compares.
func withstand(t *testing.T, g *gateway, all []*regular, url string, others int) {
	const perSecond = 2000
	// Warm up, and what is refused as well: what is allocated once is no leak.
	work(t, all, time.Second)
	storm(t, url, perSecond, others, time.Second)
	pid := g.cmd.Process.Pid
	began := cpuTime(t, pid)
	before := work(t, all, *refusals)
	idle := cpuTime(t, pid)
	memory, lines := resident(t, pid), len(g.log.lines())

	refused := make(chan int, 1)
	go func() { refused <- storm(t, url, perSecond, others, *refusals) }()
	during := work(t, all, *refusals)
	n := <-refused
	each := (cpuTime(t, pid) - idle - (idle - began)) / time.Duration(max(n, 1))
	grown := resident(t, pid) - memory
	t.Logf("%d logins refused in %v, for %v of the processor each; p99 of a message to itself %v, before %v; the gateway has grown by %d KiB of %d; %d lines in the log",
		n, *refusals, each, during, before, grown>>10, memory>>10, len(g.log.lines())-lines)
	if grown > max(memory/4, 8<<20) {
		t.Errorf("the gateway has grown by %d KiB, of %d", grown>>10, memory>>10)
	}
	if got := len(g.log.lines()) - lines; got > 100+100*int(*refusals/time.Minute) {
		t.Errorf("%d lines in the log", got)
	}
	if *refusals >= time.Minute {
		if n < perSecond*int(*refusals/time.Second)*9/10 {
			t.Errorf("only %d refusals", n)
		}
		if during > 2*before {
			t.Errorf("p99 is %v, before it was %v", during, before)
		}
	}
}

// work lets each client publish 20 times a second, and returns the 99th percentile of how long a
// message took.
func work(t *testing.T, all []*regular, d time.Duration) time.Duration {
	var mu sync.Mutex
	var took []time.Duration
	var working sync.WaitGroup
	end := time.Now().Add(d)
	for i, r := range all {
		working.Go(func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for time.Now().Before(end) {
				<-tick.C
				r.sent = time.Now()
				if err := r.c.Send(t.Context(), packet.Publish{Topic: fmt.Sprint("good/", i), Payload: []byte("x"), QoS: 1}, nil); err != nil {
					t.Error(err)
					return
				}
				select {
				case d := <-r.came:
					mu.Lock()
					took = append(took, d)
					mu.Unlock()
				case <-time.After(20 * time.Second):
					t.Error("a message has not come")
					return
				}
			}
		})
	}
	working.Wait()
	if len(took) == 0 {
		t.Fatal("no message came")
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

// asStorm makes this test binary a storm of logins, in a process of its own: those who are measured
// share no scheduler with it.
const asStorm = "GATEWAY_E2E_STORM"

// storm logs in with wrong passwords, by so many clients at a time, with new names each time and as the clients
// that work, and returns how often that was refused.
func storm(t *testing.T, url string, perSecond, clients int, d time.Duration) int {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprint(asStorm, "=", url, " ", perSecond, " ", clients, " ", d))
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("the storm: %v", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Errorf("the storm says %q", out)
	}
	return n
}

// rage is the process that storm starts. It prints how often a login was refused.
func rage(order string) int {
	var url, length string
	var perSecond, clients int
	if _, err := fmt.Sscan(order, &url, &perSecond, &clients, &length); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	d, err := time.ParseDuration(length)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	pace := rate.NewLimiter(rate.Limit(perSecond), 10)
	var made, refused, wrong atomic.Int64
	var storming sync.WaitGroup
	for range clients {
		storming.Go(func() {
			for pace.Wait(ctx) == nil {
				n := made.Add(1)
				o := client.Options{ClientID: "good-" + strconv.FormatInt(n%100, 10), Version: packet.V5, Username: "dev", Password: "wrong-password"}
				if n%2 == 0 {
					o.ClientID, o.Username = fmt.Sprint("foe-", n), fmt.Sprint("user-", n)
				}
				dialing, done := context.WithTimeout(context.Background(), 20*time.Second)
				c, err := client.Dial(dialing, url, o)
				done()
				if err == nil {
					wrong.Add(1)
					c.Close()
				}
				if _, ok := errors.AsType[*client.Error](err); ok {
					refused.Add(1)
				}
			}
		})
	}
	storming.Wait()
	fmt.Println(refused.Load())
	if wrong.Load() > 0 {
		fmt.Fprintln(os.Stderr, "a wrong password lets in")
		return 1
	}
	return 0
}

// resident returns how much memory a process has, in bytes.
func resident(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
