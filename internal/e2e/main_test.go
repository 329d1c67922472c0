// Package e2e tests the gateway as it is shipped: the built binary as a process of its own,
// devices around it, Debian's mosquitto as the cloud over mutual TLS, a line between them that
// can be cut, and a pseudo-terminal as a serial port.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

var (
	rounds  = flag.Int("rounds", 20, "outages that TestOutages goes through")
	torture = flag.Duration("torture", time.Second, "how long each trouble of TestTorture lasts")
	herd    = flag.Int("herd", 100, "gateways of TestHerd")
	nats    = flag.String("nats", "", "nats-server for TestCluster")
	kills   = flag.Int("kills", 6, "nodes that TestCluster kills, one after the other")
	given   = flag.String("gateway", "", "program to test, instead of one that is built from this source")
	seed    = flag.Uint64("seed", 0, "seed of TestOutages; 0: a new one")
)

// binary is the gateway under test.
var binary string

func TestMain(m *testing.M) {
	if order := os.Getenv(asStorm); order != "" {
		os.Exit(rage(order))
	}
	if order := os.Getenv(asService); order != "" {
		os.Exit(decide(order))
	}
	if order := os.Getenv(asCrowd); order != "" {
		os.Exit(gather(order))
	}
	flag.Parse()
	os.Exit(run(m))
}

// run builds the gateway as it is shipped, without the race detector, and runs the tests.
func run(m *testing.M) int {
	if binary = *given; binary != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "gateway-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "gateway")
	build := exec.Command("go", "build", "-o", binary, "gateway/cmd/gateway")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: go build:", err)
		return 1
	}
	return m.Run()
}
