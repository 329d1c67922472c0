package bridge

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"gateway/broker/packet"
)

// mosquitto starts Debian's broker on a free port of the loopback interface, and returns its
// address. settings follow the listener line.
func mosquitto(t testing.TB, settings ...string) string {
	t.Helper()
	const program = "/usr/sbin/mosquitto"
	if _, err := os.Stat(program); err != nil {
		t.Skipf("needs Debian's mosquitto (apt-get install mosquitto): %v", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	_, port, _ := net.SplitHostPort(address)
	lines := append([]string{"listener " + port + " 127.0.0.1"}, settings...)
	lines = append(lines, "persistence false", "max_queued_messages 0", "log_dest stderr")
	if os.Geteuid() == 0 {
		lines = append(lines, "user root") // it could not read the keys of the test otherwise
	}
	file := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(program, "-c", file)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("mosquitto says:\n%s", log.String())
		}
	})
	eventually(t, "mosquitto listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return address
}

// An observer is an independent client of the cloud that notes what it is sent.
type observer struct {
	mqtt.Client
	mu  sync.Mutex
	got []string // topic, retain flag and payload
}

func observe(t *testing.T, address, filter string, secure *tls.Config) *observer {
	t.Helper()
	scheme := "mqtt://"
	if secure != nil {
		scheme = "mqtts://"
	}
	o := &observer{}
	o.Client = mqtt.NewClient(mqtt.NewClientOptions().AddBroker(scheme + address).SetAutoReconnect(false).SetTLSConfig(secure).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.got = append(o.got, fmt.Sprintf("%s %t %s", m.Topic(), m.Retained(), m.Payload()))
		}))
	for _, token := range []func() mqtt.Token{o.Connect, func() mqtt.Token { return o.Subscribe(filter, 2, nil) }} {
		if k := token(); !k.WaitTimeout(10*time.Second) || k.Error() != nil {
			t.Fatalf("observer: %v", k.Error())
		}
	}
	t.Cleanup(func() { o.Disconnect(100) })
	return o
}

func (o *observer) all() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.got)
}

func (o *observer) publish(t *testing.T, topic string, q byte, retain bool, payload string) {
	t.Helper()
	if k := o.Publish(topic, q, retain, payload); !k.WaitTimeout(10*time.Second) || k.Error() != nil {
		t.Fatalf("observer publishes: %v", k.Error())
	}
}

// A cable leads to an address, and can be cut.
type cable struct {
	net.Listener
	to   string
	wait sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
	after int64 // bytes upwards until a connection is cut; 0: never
}

func newCable(t *testing.T, to string, after int64) *cable {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{Listener: ln, to: to, after: after}
	c.wait.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			c.join(near)
		}
	})
	t.Cleanup(func() { ln.Close(); c.cut(); c.wait.Wait() })
	return c
}

func (c *cable) join(near net.Conn) {
	far, err := net.Dial("tcp", c.to)
	if err != nil {
		near.Close()
		return
	}
	c.mu.Lock()
	c.conns = append(c.conns, near, far)
	up := io.Reader(near)
	if c.after > 0 {
		up = io.LimitReader(near, c.after)
		c.after += 997
	}
	c.mu.Unlock()
	pass := func(to io.Writer, from io.Reader) func() {
		return func() { io.Copy(to, from); near.Close(); far.Close() }
	}
	c.wait.Go(pass(far, up))
	c.wait.Go(pass(near, far))
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// The retained state is on both sides: connected, offline by the will when the cable is cut,
// connected again, offline when the bridge is stopped.
func TestStateOnBothSides(t *testing.T) {
	address := mosquitto(t, "allow_anonymous true")
	o := observe(t, address, "site/state", nil)
	line := newCable(t, address, 0)
	l := newLedger(t, 0)
	config := testConfig(t, l, "mqtt://"+line.Addr().String())
	config.StateTopic = "site/state"
	config.Backlog = func(lane int) (int, time.Time) { return 3 * (1 - min(lane, 1)), time.Unix(1_800_000_000, 0) }
	b, stop := start(t, config)

	states := func() (words []string) {
		for _, s := range o.all() {
			var state State
			if err := json.Unmarshal([]byte(strings.SplitN(s, " ", 3)[2]), &state); err != nil {
				t.Fatal(err)
			}
			words = append(words, state.State)
		}
		return words
	}
	eventually(t, "connected", func() bool { return slices.Equal(states(), []string{"connected"}) })
	if s := o.all()[0]; !strings.Contains(s, `"queued":3,"oldest":"2027-01-15T08:00:00Z"`) || !strings.Contains(s, `"url":"`+b.targets.current().url) {
		t.Errorf("the state in the cloud is %s", s)
	}
	line.cut()
	eventually(t, "offline by will, connected", func() bool {
		return slices.Equal(states(), []string{"connected", "offline", "connected"})
	})
	stop()
	eventually(t, "offline", func() bool {
		return slices.Equal(states(), []string{"connected", "offline", "connected", "offline"})
	})
	late := observe(t, address, "site/state", nil)
	eventually(t, "a retained state", func() bool {
		return slices.Equal(late.all(), []string{`site/state true {"state":"offline"}`})
	})

	eventually(t, "the last local state", func() bool {
		local := l.published(LocalStateTopic("cloud"))
		return len(local) > 0 && strings.Contains(local[len(local)-1], `"state":"offline"`)
	})
	local := strings.Join(l.published(LocalStateTopic("cloud")), "\n")
	at := 0
	for _, word := range []string{"connecting", "connected", "down", "connected", "offline"} {
		i := strings.Index(local[at:], `"state":"`+word+`"`)
		if i < 0 {
			t.Fatalf("%q is missing, in its place, in the local states:\n%s", word, local)
		}
		at += i
	}
	if !strings.Contains(local, "the cloud closed the connection") {
		t.Errorf("the local states do not tell why:\n%s", local)
	}
}

// Exactly once in both directions through mutual TLS and a cable that is cut all the time.
func TestMutualTLS(t *testing.T) {
	const messages = 600
	ca, dir := newAuthority(t, "greenhouse CA"), t.TempDir()
	caFile := filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := write(t, dir, "cloud", ca.issue("cloud.example.org"))
	address := mosquitto(t, "cafile "+caFile, "certfile "+certFile, "keyfile "+keyFile,
		"require_certificate true", "use_identity_as_username true", "allow_anonymous false")
	secure := func() (*tls.Config, error) {
		return &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.issue("site")}}, nil
	}
	observing, err := secure()
	if err != nil {
		t.Fatal(err)
	}
	o := observe(t, address, "site/up/#", observing)
	line := newCable(t, address, 3000)
	l := newLedger(t, time.Millisecond)
	for i := range messages {
		l.add(message("up/one", 1, i), message("up/two", 2, i))
	}
	config := testConfig(t, l, "mqtts://"+line.Addr().String())
	config.TLS = secure
	start(t, config)
	eventually(t, "a subscription", func() bool {
		o.publish(t, "down/probe", 0, false, "")
		return len(l.published("local/down/probe")) > 0
	})
	for i := range 200 {
		o.publish(t, "down/two", 2, false, fmt.Sprint(i))
	}
	received := func(topic string) (payloads []string) {
		for _, s := range o.all() {
			if rest, ok := strings.CutPrefix(s, topic+" false "); ok {
				payloads = append(payloads, rest)
			}
		}
		return payloads
	}
	defer func() {
		if t.Failed() {
			t.Logf("in the cloud %d and %d (without repetitions %d) of %d; here %d of 200", len(received("site/up/two")), len(received("site/up/one")),
				len(firsts(received("site/up/one"))), messages, len(l.published("local/down/two")))
		}
	}()
	eventually(t, "everything", func() bool {
		return len(received("site/up/two")) >= messages && len(firsts(received("site/up/one"))) >= messages && len(l.published("local/down/two")) >= 200
	})
	if got := received("site/up/two"); !slices.Equal(got, numbers(messages)) {
		t.Errorf("QoS 2 in the cloud: %d messages, or not in order", len(got))
	}
	if got := firsts(received("site/up/one")); !slices.Equal(got, numbers(messages)) {
		t.Errorf("QoS 1 in the cloud: not in order")
	}
	if got := l.published("local/down/two"); !slices.Equal(got, numbers(200)) {
		t.Errorf("QoS 2 here: %d messages, or not in order", len(got))
	}
}

// A broker that knows bridges sends nothing back to where it came from, and keeps the retain
// flag.
func TestAnnouncedBridge(t *testing.T) {
	address := mosquitto(t, "allow_anonymous true")
	o := observe(t, address, "#", nil)
	l := newLedger(t, 0)
	config := testConfig(t, l, "mqtt://"+address)
	config.AnnounceBridge = true
	config.Rules = []Rule{{Direction: Both, Filter: "both/#", QoS: 1}}
	b, _ := start(t, config)
	eventually(t, "a connection", func() bool { return b.State().State == Connected })
	l.add(packet.Publish{Topic: "both/up", QoS: 1, Payload: []byte("1")})
	eventually(t, "the message in the cloud", func() bool { return slices.Contains(o.all(), "both/up false 1") })
	eventually(t, "a command", func() bool {
		o.publish(t, "both/down", 1, true, "2")
		return len(l.published("both/down")) > 0
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.inbox {
		if p.Topic == "both/up" || p.Topic == "both/down" && !p.Retain {
			t.Errorf("%q came from the cloud, retain %t", p.Topic, p.Retain)
		}
	}
}
