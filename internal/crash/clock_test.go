package crash

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/broker/packet"
	"gateway/internal/client"
	"gateway/internal/vm"
)

// TestClockInKernel runs TestClock where the clock may be set: in a kernel of its own.
func TestClockInKernel(t *testing.T) {
	if vm.Inside() {
		t.Skip("this is the test kernel")
	}
	t.Setenv(machineBinary, product(t))
	vm.Run(t, "^TestClock$")
}

// TestClock starts two gateways in 1970, one the cloud of the other over mutual TLS, tells them the
// time, and then takes the clock ten years ahead and ten years back.
func TestClock(t *testing.T) {
	vm.Need(t)
	binary := os.Getenv(machineBinary)
	if binary == "" {
		t.Skip("TestClockInKernel runs it")
	}
	dir := filepath.Join(t.TempDir(), "ca")
	for _, args := range [][]string{{"init"}, {"server", "localhost", "127.0.0.1"}, {"client", "greenhouse"}, {"client", "reader"}} {
		if out, err := exec.Command(binary, append([]string{"ca", "--dir", dir}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("gateway ca %q: %v\n%s", args, err, out)
		}
	}
	right := time.Now() // with a monotonic reading, which no step changes
	now := func() time.Time { return right.Add(time.Since(right)).Round(0) }

	setClock(t, time.Unix(20, 0))
	cloud := &party{t: t, binary: binary, address: freeAddress(t), log: &output{}}
	cloud.write(fmt.Sprintf("    tls: {cert: %[1]s/localhost.crt, key: %[1]s/localhost.key, client_ca: %[1]s/ca.crt, require_certificate: true}\n", dir))
	g := &party{t: t, binary: binary, address: freeAddress(t), log: &output{}}
	g.write("    anonymous: true\n" + fmt.Sprintf(clockSections, cloud.address, dir))
	g.start()

	// In 1970 no reading is good. They wait for the cloud.
	local := &readings{}
	g.connect(t, "watch", nil, local.add, "greenhouse/#")
	wait(t, "readings without a date", func() bool { return local.count("uncertain") >= 3 })
	if n := local.count("good"); n > 0 {
		t.Errorf("%d readings are good, though nobody knows when they were taken", n)
	}
	if k := g.log.count("the clock is not set"); k != 1 {
		t.Errorf("the log says %d times that the clock is not set", k)
	}

	// The certificates are from long after 1970: the cloud and the gateway meet all the same.
	cloud.start()
	wait(t, "mutual TLS in 1970", func() bool { return g.log.count("bridge connected") == 1 })
	g.kill()
	cloud.kill()

	// Everything starts again, still in 1970; the readings of before are still there. The clock is
	// set before there is a cloud.
	g.start()
	local = &readings{}
	g.connect(t, "watch", nil, local.add, "greenhouse/#")
	wait(t, "readings without a date", func() bool { return local.count("uncertain") >= 3 })
	cloud.forget()
	setClock(t, now())
	wait(t, "a good reading", func() bool { return local.count("good") > 0 })
	cloud.start()
	upstream := &readings{}
	cloud.connect(t, "reader", tlsOf(t, dir, "reader"), upstream.add, "greenhouse/#")
	wait(t, "the backlog", func() bool { return upstream.count("good") >= 10 })
	if n := upstream.count("uncertain"); n > 0 {
		t.Errorf("%d of the readings that came late have no date", n)
	}
	if first, last := upstream.span(); first.Before(right.Add(-time.Second)) || last.After(now().Add(time.Second)) {
		t.Errorf("the readings are from %v to %v; it all happened from %v to %v", first, last, right, now())
	}

	steps(t, g, now)
	if k := g.log.count("bridge connected"); k != 3 {
		t.Errorf("the bridge connected %d times, want once after each start: steps of the clock do not end a connection", k)
	}
	if first, last := upstream.span(); first.Before(right.Add(-time.Second)) || last.After(now().Add(time.Second)) {
		t.Errorf("after the steps, the readings are from %v to %v; it all happened from %v to %v", first, last, right, now())
	}
}

// steps takes the clock ten years ahead and back, while clients are connected, a session waits
// that lives for a minute, and two messages in it, one for a minute and one for two seconds.
func steps(t *testing.T, g *party, now func() time.Time) {
	t.Helper()
	for _, years := range []int{10, -10} {
		setClock(t, now())
		got := &readings{}
		sleeper := client.Options{ClientID: "sleeper", Version: packet.V5, KeepSession: true, SessionExpiry: 60, Session: client.NewSession()}
		c := g.dial(t, sleeper)
		if _, err := c.Subscribe(t.Context(), packet.Subscription{Filter: "wait/#", QoS: 1}); err != nil {
			t.Fatal(err)
		}
		c.Close()
		awake := g.dial(t, client.Options{ClientID: "awake", Version: packet.V5, KeepAlive: 2})
		for topic, expiry := range map[string]uint32{"wait/minute": 60, "wait/moment": 2} {
			m := packet.Publish{Topic: topic, QoS: 1, Payload: []byte(topic), Properties: &packet.PublishProperties{HasMessageExpiry: true, MessageExpiry: expiry}}
			if _, err := awake.Publish(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		setClock(t, now().AddDate(years, 0, 0))
		begin := time.Now()
		wait(t, "four seconds", func() bool { return time.Since(begin) > 4*time.Second })
		if err := awake.Err(); err != nil {
			t.Errorf("%+d years: a connection ended: %v", years, err)
		}
		if years > 0 { // a restart changes nothing of that
			connected := g.log.count("bridge connected")
			g.kill()
			g.start()
			wait(t, "the cloud", func() bool { return g.log.count("bridge connected") > connected })
		}
		sleeper.Receive = got.add
		if c = g.dial(t, sleeper); !c.Connack().SessionPresent {
			t.Errorf("%+d years: the session has expired", years)
		}
		wait(t, "the message that lives for a minute", func() bool { return len(got.all()) > 0 })
		if all := got.all(); len(all) != 1 || all[0] != "wait/minute" {
			t.Errorf("%+d years: %q came, want only the one that lives for a minute", years, all)
		}
		c.Close()
		awake.Close()
	}
	setClock(t, now())
}

func setClock(t *testing.T, to time.Time) {
	t.Helper()
	ts := unix.NsecToTimespec(to.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		t.Fatalf("set the clock: %v", err)
	}
}

// wait polls until a condition holds.
func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("not within 30s: %s", what)
		}
	}
}

// clockSections are a simulated sensor and a bridge, with the address of a cloud and the folder of
// an authority.
const clockSections = `board: sim
sim: {speed: 600}
serial:
  - port: sim:climate
    frames:
      - format: json
        fields:
          - {field: air, point: greenhouse/air}
bridges:
  - name: cloud
    url: mqtts://%s
    tls: {ca: %[2]s/ca.crt, cert: %[2]s/greenhouse.crt, key: %[2]s/greenhouse.key}
    keep_alive: 5s
    backoff: {min: 100ms, max: 200ms}
    rules:
      - {direction: out, filter: greenhouse/#, qos: 1}
`

// A party is one of two gateways.
type party struct {
	t               *testing.T
	binary, address string
	config          string
	log             *output
	cmd             *exec.Cmd
}

// write writes the configuration: one listener, and the lines that follow it.
func (p *party) write(rest string) {
	p.t.Helper()
	p.config = filepath.Join(p.t.TempDir(), "gateway.yaml")
	text := fmt.Sprintf("gateway: {id: greenhouse, data: %s}\nlisteners:\n  - name: local\n    address: %s\n", p.t.TempDir(), p.address) + rest
	if err := os.WriteFile(p.config, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
		if p.t.Failed() {
			p.t.Logf("%s", p.log.buf)
		}
	})
}

// forget makes the gateway start without a store the next time.
func (p *party) forget() {
	p.t.Helper()
	b, err := os.ReadFile(p.config)
	if err != nil {
		p.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), p.address+"\n")
	p.write(rest)
}

func (p *party) start() {
	p.t.Helper()
	p.cmd = exec.Command(p.binary, "run", p.config)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	before := p.log.count("gateway is running")
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	wait(p.t, "the gateway runs", func() bool { return p.log.count("gateway is running") > before })
}

func (p *party) kill() {
	_ = p.cmd.Process.Kill() // it may be gone
	_ = p.cmd.Wait()         // killed
}

// count returns how many lines have a text.
func (o *output) count(text string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Count(string(o.buf), text)
}

// connect connects a subscriber.
func (p *party) connect(t *testing.T, id string, secure *tls.Config, receive func(packet.Publish), filter string) {
	t.Helper()
	c := p.dial(t, client.Options{ClientID: id, Version: packet.V5, KeepAlive: 2, TLS: secure, Receive: receive})
	if _, err := c.Subscribe(t.Context(), packet.Subscription{Filter: filter, QoS: 1}); err != nil {
		t.Fatal(err)
	}
}

func (p *party) dial(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	scheme := "mqtt://"
	if o.TLS != nil {
		scheme = "mqtts://"
	}
	c, err := client.Dial(ctx, scheme+p.address, o)
	if err != nil {
		t.Fatalf("%s: %v", o.ClientID, err)
	}
	t.Cleanup(c.Close)
	return c
}

// tlsOf has the certificate that an authority made for a name.
func tlsOf(t *testing.T, dir, name string) *tls.Config {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots}
}

// Readings are what a subscriber has received.
type readings struct {
	mu       sync.Mutex
	payloads []string
}

func (r *readings) add(m packet.Publish) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.payloads = append(r.payloads, string(m.Payload))
}

func (r *readings) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.payloads...)
}

// A reading is as docs/topics.md has it.
type reading struct {
	Quality string
	At      time.Time
}

func (r *readings) parsed() (list []reading) {
	for _, p := range r.all() {
		var one reading
		if json.Unmarshal([]byte(p), &one) == nil && one.Quality != "" {
			list = append(list, one)
		}
	}
	return list
}

func (r *readings) count(quality string) (n int) {
	for _, one := range r.parsed() {
		if one.Quality == quality {
			n++
		}
	}
	return n
}

// span returns the times of the first and the last reading.
func (r *readings) span() (first, last time.Time) {
	for _, one := range r.parsed() {
		if first.IsZero() || one.At.Before(first) {
			first = one.At
		}
		if one.At.After(last) {
			last = one.At
		}
	}
	return first, last
}
