package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// A trouble is one way in which the line to the cloud, or the cloud, can be wrong. begin brings
// it about and returns what ends it.
type trouble struct {
	name  string
	begin func(t *testing.T, c *cloud, line *link) (end func())
}

var troubles = []trouble{
	{"connections are reset, new ones too", func(_ *testing.T, _ *cloud, line *link) func() {
		line.sever()
		return line.restore
	}},
	{"no byte passes", func(_ *testing.T, _ *cloud, line *link) func() {
		line.blackhole()
		return line.restore
	}},
	{"half-open: the peer has forgotten the connection", func(_ *testing.T, _ *cloud, line *link) func() {
		line.forsake()
		return line.restore
	}},
	{"SYN is not answered", func(t *testing.T, c *cloud, line *link) func() {
		line.divert(deaf(t))
		return func() { line.divert(c.address) }
	}},
	{"1 kB/s", func(_ *testing.T, _ *cloud, line *link) func() {
		line.throttle(1000)
		return line.restore
	}},
	{"reset every 10 kB", func(_ *testing.T, _ *cloud, line *link) func() {
		line.tear(10_000)
		return line.restore
	}},
	{"accepts and says nothing", func(t *testing.T, c *cloud, line *link) func() {
		line.divert(c.impostor(t, func(net.Conn) {}))
		return func() { line.divert(c.address) }
	}},
	{"takes everything and acknowledges nothing", func(t *testing.T, c *cloud, line *link) func() {
		line.divert(c.impostor(t, func(nc net.Conn) { c.say(nc, &packet.Connack{SessionPresent: true}) }))
		return func() { line.divert(c.address) }
	}},
	{"refuses: server unavailable", func(t *testing.T, c *cloud, line *link) func() {
		line.divert(c.impostor(t, func(nc net.Conn) { c.say(nc, &packet.Connack{Reason: packet.ServerUnavailable}) }))
		return func() { line.divert(c.address) }
	}},
	{"refuses: not authorized", func(t *testing.T, c *cloud, line *link) func() {
		line.divert(c.impostor(t, func(nc net.Conn) { c.say(nc, &packet.Connack{Reason: packet.NotAuthorized}) }))
		return func() { line.divert(c.address) }
	}},
	{"answers what is no MQTT", func(t *testing.T, c *cloud, line *link) func() {
		line.divert(c.impostor(t, func(nc net.Conn) { _, _ = io.WriteString(nc, "HTTP/1.1 400 Bad Request\r\n\r\n") }))
		return func() { line.divert(c.address) }
	}},
	{"a certificate of another authority", func(t *testing.T, c *cloud, line *link) func() {
		other := &cloud{authority: newAuthority(t, "other CA")}
		line.divert(other.impostor(t, func(net.Conn) {}))
		return func() { line.divert(c.address) }
	}},
	{"the cloud is restarted", func(_ *testing.T, c *cloud, line *link) func() {
		c.restart()
		return func() {}
	}},
}

// forgetful is a cloud that loses all that it should keep.
var forgetful = trouble{"the cloud comes back without its sessions", func(t *testing.T, c *cloud, line *link) func() {
	// What the cloud has acknowledged and not passed on yet is the cloud's to lose.
	line.sever()
	return func() {
		c.drained()
		c.forget()
		eventually(t, 10*time.Second, "the consumer has subscribed again", c.present.Load)
		line.restore()
	}
}}

// TestTorture lets everything happen upstream that can, under load. Meanwhile clients of the
// gateway find it as quick as before, and when it is over nothing is missing, nothing at QoS 2
// came twice, and the order is kept.
func TestTorture(t *testing.T) {
	for _, version := range []string{"3.1.1", "5.0"} {
		t.Run(version, func(t *testing.T) {
			books, _ := endure(t, version, troubles...)
			books.audit(t)
		})
	}
}

// TestForgetfulCloud loses nothing at QoS 1. Of the messages at QoS 2 that were on their way, each
// in a state that only the cloud knew, the gateway says that their fate is unknown.
func TestForgetfulCloud(t *testing.T) {
	books, log := endure(t, "3.1.1", forgetful)
	if len(log.lines("the cloud has lost its session")) == 0 {
		t.Error("the log says nothing of it")
	}
	const window = 20
	for topic, a := range books.accounts {
		acked, lost, twice, disorder := a.count()
		t.Logf("%s: QoS %d, %d acknowledged, %d lost, %d twice, %d out of order", topic, a.qos, acked, lost, twice, disorder)
		if acked == 0 || disorder > 0 || lost > 0 && a.qos == 1 || a.qos == 2 && lost+twice > window {
			t.Errorf("%s: the cloud has lost more than it could", topic)
		}
	}
}

// endure lets the troubles of a bridge that speaks a version come and go under load. It returns the books, when all is quiet again,
// and the gateway's log.
func endure(t *testing.T, version string, troubles ...trouble) (*ledger, *output) {
	t.Helper()
	c := newCloud(t)
	books := newLedger()
	c.collect(books, 2, nil)
	line := newLink(t, c.address)
	if c.spoken = packet.V311; version == "5.0" {
		c.spoken = packet.V5
	}
	g := newGateway(t, speaking(version, bridge(line.address(), c.file, c.valid("greenhouse"))))
	g.start()
	load, stop := context.WithCancel(t.Context())
	defer stop()
	var workers sync.WaitGroup
	for _, d := range devicesOf(g, books, 4*time.Millisecond) {
		workers.Go(func() {
			if err := d.run(load, 20*time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	arrive := func() {
		t.Helper()
		before := books.total()
		eventually(t, 30*time.Second, "messages arrive", func() bool { return books.total() > before })
	}
	arrive()
	control := newGateway(t)
	control.start()
	quietly, beside := g.compare(control, *torture)
	t.Logf("%-50s local p50 %8v  p99 %8v, of the control %8v", "quiet", quietly.p50, quietly.p99, beside.p99)
	for _, trouble := range troubles {
		// A gateway that waits for its uplink does so again; a machine with other work seldom stops the
		// same process three times and spares the other.
		const tries = 3
		for try := 1; ; try++ {
			end := trouble.begin(t, c, line)
			l, beside := g.compare(control, *torture)
			end()
			t.Logf("%-50s local p50 %8v  p99 %8v, of the control %8v, %.1f × quiet; it ends at arrival %d", trouble.name, l.p50, l.p99, beside.p99,
				float64(l.p99)/float64(quietly.p99), books.total())
			arrive()
			if !l.stands(beside) {
				break
			}
			if try == tries {
				t.Errorf("%s: local p50 %v and p99 %v; at the same time %v and %v without a bridge", trouble.name, l.p50, l.p99, beside.p50, beside.p99)
				break
			}
		}
	}
	stop()
	workers.Wait()
	within(t, 10*time.Second, func() bool { return books.missing() == 0 })
	quiet(t, books)
	return books, g.log
}

// TestBlackholeDNS is a name server that never answers: the gateway starts as quickly as ever, is
// as quick, and says what is wrong.
func TestBlackholeDNS(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may give the gateway a resolv.conf of its own")
	}
	server, err := net.ListenPacket("udp", "127.0.0.153:53")
	if err != nil {
		t.Skipf("no name server can be played here: %v", err)
	}
	defer server.Close()
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 127.0.0.153\noptions timeout:60\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a := newAuthority(t, "CA")
	g := newGateway(t, strings.Replace(bridge("127.0.0.1:1", a.file, a.valid("greenhouse")), "127.0.0.1:1", "cloud.example:8883", 1))
	script := fmt.Sprintf("mount --bind %s /etc/resolv.conf && exec %s run %s", resolv, binary, g.config)
	g.process = launch(t, "gateway", g.log, "unshare", "--mount", "sh", "-c", script)
	eventually(t, 5*time.Second, "the gateway answers", func() bool {
		conn, err := net.Dial("tcp", g.address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	control := newGateway(t)
	control.start()
	l, beside := g.compare(control, *torture)
	t.Logf("local p50 %v, p99 %v, of the control %v", l.p50, l.p99, beside.p99)
	if l.stands(beside) {
		t.Errorf("local p50 %v, p99 %v, and %v and %v without a bridge: the name server is waited for", l.p50, l.p99, beside.p50, beside.p99)
	}
	eventually(t, 20*time.Second, "the log tells of the name", func() bool { return len(g.log.lines("bridge down", "cloud.example")) > 0 })
}

// A latency is how long messages took from one client of the gateway to another.
type latency struct{ p50, p99 time.Duration }

// stands reports whether messages took longer than those of a control, which suffered the same
// machine at the same time, by more than chance explains.
func (l latency) stands(control latency) bool {
	const chance = 20 * time.Millisecond
	return l.p50 > 2*control.p50+chance || l.p99 > 2*control.p99+chance
}

// compare measures the latency of two gateways at the same time.
func (g *gateway) compare(control *gateway, d time.Duration) (own, other latency) {
	g.t.Helper()
	ours, theirs := g.probe(), control.probe()
	defer ours.close()
	defer theirs.close()
	ctx, cancel := context.WithTimeout(g.t.Context(), d+20*time.Second)
	defer cancel()
	var both sync.WaitGroup
	var failed [2]error
	both.Go(func() { own, failed[0] = ours.latency(ctx, d) })
	both.Go(func() { other, failed[1] = theirs.latency(ctx, d) })
	both.Wait()
	if err := errors.Join(failed[:]...); err != nil {
		g.t.Fatal(err)
	}
	return own, other
}

// A probe is a pair of clients of a gateway that measure its latency.
type probe struct {
	pub, sub *client.Client
	took     chan time.Duration // taken in time, or the reader of the connection waits
}

func (g *gateway) probe() *probe {
	g.t.Helper()
	p := &probe{took: make(chan time.Duration, 64), pub: g.connect(client.Options{})}
	p.sub = g.connect(client.Options{Receive: func(m packet.Publish) { p.took <- since(m.Payload) }})
	subscribe(g.t, p.sub, "local/latency", 1)
	return p
}

func (p *probe) close() {
	p.pub.Close()
	p.sub.Close()
}

// latency sends messages at QoS 0 and 1 in turn, 500 in a second, for a while. A message that is held up
// holds those up that follow: their time counts from when they were due, so that one long stall is
// seen among many quick messages.
func (p *probe) latency(ctx context.Context, d time.Duration) (latency, error) {
	const rhythm = 2 * time.Millisecond
	var all []time.Duration
	began := time.Now()
	for due := began; time.Since(began) < d || len(all) == 0; due = due.Add(rhythm) {
		if early := time.Until(due); early > 0 {
			time.Sleep(early)
			due = time.Now() // who wakes late is no fault of the gateway
		}
		m := packet.Publish{Topic: "local/latency", QoS: packet.QoS(len(all) % 2), Payload: strconv.AppendInt(nil, due.UnixNano(), 10)}
		if err := p.pub.Send(ctx, m, nil); err != nil {
			return latency{}, err
		}
		select {
		case t := <-p.took:
			all = append(all, t)
		case <-ctx.Done():
			return latency{}, fmt.Errorf("a message between two local clients does not arrive after %d others", len(all))
		}
	}
	slices.Sort(all)
	return latency{all[len(all)/2], all[len(all)*99/100]}, nil
}

// collect enters what the cloud passes on in the books, through its restarts. What a sensor says, if
// there is one, goes to sensor.
func (c *cloud) collect(books *ledger, qos packet.QoS, sensor func(payload []byte)) {
	ctx, cancel := context.WithCancel(c.t.Context())
	c.books = books
	var work sync.WaitGroup
	c.t.Cleanup(func() { cancel(); work.Wait() })
	session := client.NewSession()
	visit := func() error {
		dialing, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		conn, err := client.Dial(dialing, "mqtts://"+c.address, client.Options{
			ClientID: "collector", KeepAlive: 60, KeepSession: true, Session: session, TLS: c.client(c.reader),
			Receive: func(m packet.Publish) {
				if topic := strings.TrimPrefix(m.Topic, "greenhouse/"); topic == "up/sensor" {
					sensor(m.Payload)
				} else {
					books.arrive(topic, m.Payload)
				}
			},
		})
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.Subscribe(dialing, packet.Subscription{Filter: "greenhouse/up/#", QoS: qos}); err != nil {
			return err
		}
		c.present.Store(true)
		defer c.present.Store(false)
		select {
		case <-conn.Done():
			return conn.Err()
		case <-ctx.Done():
			return nil
		}
	}
	c.reader = c.valid("collector")
	work.Go(func() {
		for ctx.Err() == nil {
			if err := visit(); err != nil {
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
	})
	eventually(c.t, 10*time.Second, "the consumer has subscribed", func() bool { return c.present.Load() })
}

// drained waits until the cloud has passed on all that it has.
func (c *cloud) drained() {
	c.t.Helper()
	quiet(c.t, c.books)
}

// impostor is a server with a certificate of the authority that answers a CONNECT as it likes,
// and takes whatever comes.
func (c *cloud) impostor(t *testing.T, answer func(net.Conn)) (address string) {
	t.Helper()
	p := c.valid("server")
	certificate, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	work.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer nc.Close()
				defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
				if _, err := nc.Read(make([]byte, 4096)); err != nil {
					return
				}
				answer(nc)
				_, _ = io.Copy(io.Discard, nc)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = ln.Close()
		work.Wait()
	})
	return ln.Addr().String()
}

// say answers a bridge in the version that it speaks.
func (c *cloud) say(nc net.Conn, p *packet.Connack) {
	_, _ = nc.Write(p.Append(nil, c.spoken)) // the peer may have gone
}

// deaf returns an address whose SYNs are dropped: the queue of its listener is full.
func deaf(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		t.Cleanup(func() { _ = unix.Close(fd) })
		err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0))
	}
	if err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	for range 10 {
		nc, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { _ = nc.Close() })
	}
	t.Fatal("the queue of a listener does not become full")
	return ""
}

// since returns how long ago the time was that a payload tells.
func since(payload []byte) time.Duration {
	sent, _ := strconv.ParseInt(string(payload), 10, 64)
	return time.Duration(time.Now().UnixNano() - sent)
}
