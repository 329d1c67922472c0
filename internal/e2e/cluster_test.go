package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// A node is a nats-server of a cluster of three.
type node struct {
	*process
	mqtt   string // the address of its MQTT listener
	config string
}

// A cluster is a cloud of three nodes, each of which has every message.
type cluster struct {
	*authority
	nodes []*node
	log   *output
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{authority: newAuthority(t, "cluster CA"), log: &output{}}
	showOnFailure(t, "the cluster", c.log)
	server := c.valid("server")
	var routes string
	inner := make([]string, 3)
	for i := range inner {
		inner[i] = freeAddress(t)
		routes += fmt.Sprintf("%q, ", "nats-route://"+inner[i])
	}
	for i := range inner {
		n := &node{mqtt: freeAddress(t), config: filepath.Join(t.TempDir(), "nats.conf")}
		text := fmt.Sprintf(`server_name: n%d
listen: %s
jetstream { store_dir: "%s", sync_interval: always }
cluster { name: cloud, listen: "%s", routes: [%s] }
mqtt {
  listen: "%s"
  stream_replicas: 3
  tls { cert_file: "%s", key_file: "%s", ca_file: "%s", verify: true }
}
`, i, freeAddress(t), t.TempDir(), inner[i], routes, n.mqtt, server.cert, server.key, c.file)
		if err := os.WriteFile(n.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes, n)
		c.run(n)
	}
	for _, n := range c.nodes {
		c.listens(n)
	}
	return c
}

func (c *cluster) run(n *node) {
	c.t.Helper()
	n.process = launch(c.t, "nats-server", c.log, *nats, "-c", n.config)
}

// listens waits until a node takes connections for MQTT, which it does once it has found others.
func (c *cluster) listens(n *node) {
	c.t.Helper()
	eventually(c.t, 60*time.Second, "the node listens", func() bool {
		conn, err := net.Dial("tcp", n.mqtt)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// works waits until the nodes agree: a client gets its session.
func (c *cluster) works(address string) {
	c.t.Helper()
	p := c.valid("probe")
	eventually(c.t, 60*time.Second, "the cluster takes clients", func() bool {
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		defer cancel()
		conn, err := client.Dial(ctx, "mqtts://"+address, client.Options{ClientID: "probe", KeepAlive: 60, TLS: c.client(p)})
		if err != nil {
			return false
		}
		defer conn.Close()
		_, err = conn.Publish(ctx, packet.Publish{Topic: "probe", QoS: 1})
		return err == nil
	})
}

// uses waits until the node that a gateway's bridge has connected to last is not one that is dead,
// and returns its number.
func (c *cluster) uses(g *gateway, dead int) (number int) {
	c.t.Helper()
	eventually(c.t, 90*time.Second, "the bridge is connected", func() bool {
		lines := g.log.lines("bridge connected")
		number = slices.IndexFunc(c.nodes, func(n *node) bool {
			return len(lines) > 0 && strings.Contains(lines[len(lines)-1], n.mqtt)
		})
		return number >= 0 && number != dead
	})
	return number
}

// TestCluster has three nats-server nodes as the cloud, of which the bridge knows all: a URL and two
// to fall back on. Under load the node that it uses is killed, again and again, and comes back. The
// bridge goes on through another one, and nothing that was acknowledged to a device is missing at a
// consumer that comes by the third. It subscribes at
// QoS 1: nats-server gives the packet identifiers of its deliveries to other messages when the node
// changes.
func TestCluster(t *testing.T) {
	if *nats == "" {
		t.Skip("no -nats: make torture builds a nats-server and gives its path")
	}
	c := newCluster(t)
	down := newLink(t, c.nodes[1].mqtt)
	c.works(c.nodes[0].mqtt)
	books := newLedger()
	(&cloud{authority: c.authority, address: down.address(), log: c.log}).collect(books, 1, nil)
	section := bridge(c.nodes[0].mqtt, c.file, c.valid("greenhouse"))
	fallback := fmt.Sprintf("    fallback: [mqtts://%s, mqtts://%s]\n", c.nodes[1].mqtt, c.nodes[2].mqtt)
	g := newGateway(t, strings.Replace(section, "    tls:", fallback+"    tls:", 1))
	g.start()
	load, stop := context.WithCancel(t.Context())
	defer stop()
	var workers sync.WaitGroup
	for _, d := range devicesOf(g, books, 20*time.Millisecond) {
		workers.Go(func() {
			if err := d.run(load, 20*time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	arrive := func() {
		t.Helper()
		before := books.total()
		eventually(t, 90*time.Second, "messages arrive", func() bool { return books.total() > before })
	}
	arrive()
	for range *kills {
		time.Sleep(rand.N(time.Second)) // any instant
		dead := c.uses(g, -1)
		down.divert(c.nodes[(dead+2)%3].mqtt) // the bridge takes the other one, if it lets it in first
		c.nodes[dead].kill()
		began := time.Now()
		next := c.uses(g, dead)
		arrive()
		t.Logf("node %d killed, after %v messages arrive by node %d, %d in all", dead, time.Since(began).Round(time.Millisecond), next, books.total())
		c.run(c.nodes[dead])
		c.listens(c.nodes[dead])
		c.works(c.nodes[dead].mqtt)
	}
	stop()
	workers.Wait()
	within(t, 60*time.Second, func() bool { return books.missing() == 0 })
	quiet(t, books)
	for topic, a := range books.accounts {
		acked, lost, twice, disorder := a.count()
		t.Logf("%s: QoS %d, %d acknowledged, %d lost, %d twice, %d out of order", topic, a.qos, acked, lost, twice, disorder)
		if acked == 0 || lost > 0 {
			t.Errorf("%s: %d acknowledged, %d of them lost", topic, acked, lost)
		}
	}
}
