package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/internal/client"
)

// A gateway is the program under test, with a configuration and a folder of its own that
// outlive its process.
type gateway struct {
	*process // of the run that was started last
	t        *testing.T
	address  string // its plain listener
	folder   string // its data
	config   string // the file
	log      *output
}

// newGateway writes a configuration with one plain listener on the loopback and the sections
// given, and does not start anything yet.
func newGateway(t *testing.T, sections ...string) *gateway {
	t.Helper()
	g := &gateway{t: t, address: freeAddress(t), folder: t.TempDir(), log: &output{}}
	g.config = filepath.Join(t.TempDir(), "gateway.yaml")
	text := fmt.Sprintf(`gateway:
  id: greenhouse
  data: %s
listeners:
  - name: local
    address: %s
    anonymous: true
`, g.folder, g.address) + strings.Join(sections, "")
	if err := os.WriteFile(g.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	showOnFailure(t, "gateway", g.log)
	return g
}

// extend adds a section to the configuration, before the gateway is started.
func (g *gateway) extend(section string) {
	g.t.Helper()
	f, err := os.OpenFile(g.config, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(section)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// start runs the gateway and waits until it answers, on all of its listeners.
func (g *gateway) start(flags ...string) {
	g.t.Helper()
	before := len(g.log.lines(running))
	g.process = launch(g.t, "gateway", g.log, binary, append(append([]string{"run"}, flags...), g.config)...)
	eventually(g.t, 10*time.Second, "the gateway answers", func() bool {
		select {
		case <-g.exited:
			g.t.Fatalf("gateway run ended at once: %v", g.cmd.ProcessState)
		default:
		}
		conn, err := net.Dial("tcp", g.address)
		if err == nil {
			conn.Close()
		}
		return err == nil && len(g.log.lines(running)) > before
	})
}

// running is what the log says once every listener has been opened.
const running = "gateway is running"

// connect connects a client for as long as the test takes.
func (g *gateway) connect(o client.Options) *client.Client {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, "mqtt://"+g.address, o)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(c.Close)
	return c
}

// bridge is the section that forwards up/# to a cloud behind an address and takes down/# from
// it, both at QoS 2.
func bridge(address, ca string, p pair) string {
	return fmt.Sprintf(`bridges:
  - name: cloud
    url: mqtts://%s
    tls: {ca: %s, cert: %s, key: %s}
    keep_alive: 5s
    connect_timeout: 2s
    ack_timeout: 2s
    backoff: {min: 100ms, max: 400ms}
    rules:
      - {direction: out, filter: up/#, qos: 2, remote_prefix: greenhouse/}
      - {direction: in, filter: down/#, qos: 2, remote_prefix: greenhouse/}
`, address, ca, p.cert, p.key)
}
