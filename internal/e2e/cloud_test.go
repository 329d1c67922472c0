package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// A cloud is a mosquitto that lets in nobody without a certificate.
type cloud struct {
	*authority
	address string
	process *process
	config  string // its file
	folder  string // what it keeps
	log     *output

	reader  pair // of the consumer, see collect
	books   *ledger
	spoken  packet.Version // of the bridge, see say
	present atomic.Bool    // the consumer is connected and has subscribed
}

// newCloud starts a cloud with certificates of an authority of its own, or skips the test if
// there is no mosquitto to start.
func newCloud(t *testing.T) *cloud {
	t.Helper()
	mosquitto(t, "mosquitto")
	c := &cloud{authority: newAuthority(t, "test CA"), log: &output{}}
	c.start(c.file, c.valid("server"))
	return c
}

// restart ends the mosquitto in order, so that it keeps its sessions, and starts it again.
func (c *cloud) restart() {
	c.t.Helper()
	c.process.interrupt(10 * time.Second)
	c.run()
}

// forget is a restart without what was kept.
func (c *cloud) forget() {
	c.t.Helper()
	c.process.interrupt(10 * time.Second)
	if err := os.Remove(filepath.Join(c.folder, "mosquitto.db")); err != nil {
		c.t.Fatal(err)
	}
	c.run()
}

// start writes a configuration that lets in nobody without a certificate of the CA, and starts.
func (c *cloud) start(ca string, server pair) {
	c.t.Helper()
	c.address, c.folder = freeAddress(c.t), c.t.TempDir()
	_, port, _ := net.SplitHostPort(c.address)
	text := fmt.Sprintf(`user root
listener %s 127.0.0.1
cafile %s
certfile %s
keyfile %s
require_certificate true
use_identity_as_username true
persistence true
persistence_location %s/
max_queued_messages 1000000
`, port, ca, server.cert, server.key, c.folder)
	c.config = filepath.Join(c.t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(c.config, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	showOnFailure(c.t, "mosquitto", c.log)
	c.run()
}

// run starts mosquitto and waits until it answers.
func (c *cloud) run() {
	c.t.Helper()
	c.process = launch(c.t, "mosquitto", c.log, mosquitto(c.t, "mosquitto"), "-c", c.config)
	eventually(c.t, 5*time.Second, "mosquitto answers", func() bool {
		conn, err := net.Dial("tcp", c.address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// mosquitto returns the path of one of its programs; without it the test is skipped.
func mosquitto(t *testing.T, name string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	t.Skipf("%s is not installed: apt-get install mosquitto mosquitto-clients", name)
	return ""
}

// connect connects a client with a certificate of its own, for as long as the test takes.
func (c *cloud) connect(name string, o client.Options) *client.Client {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	o.ClientID, o.KeepAlive, o.TLS = name, 60, c.client(c.valid(name))
	conn, err := client.Dial(ctx, "mqtts://"+c.address, o)
	if err != nil {
		c.t.Fatalf("cloud: %s: %v", name, err)
	}
	c.t.Cleanup(conn.Close)
	return conn
}

func subscribe(t *testing.T, c *client.Client, filter string, qos packet.QoS) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	reasons, err := c.Subscribe(ctx, packet.Subscription{Filter: filter, QoS: qos})
	if err != nil {
		t.Fatal(err)
	}
	if reasons[0].Failed() {
		t.Fatalf("subscribe %q: %v", filter, reasons[0])
	}
}
