// Package crash kills the gateway, cuts its power and looks at what is left. It runs the built
// binary with devices, a subscriber and a cloud around it, whose messages are numbered: what was
// acknowledged is not lost, QoS 2 arrives once, order is kept, and the books are equal.
package crash

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

var (
	rounds = flag.Int("rounds", 10, "how often the gateway dies in each test")
	kills  = flag.Int("kills", 2, "how often the gateway or the cloud dies in each row of TestMatrix")
	cuts   = flag.Int("cuts", 8, "how often the line is cut in each of its rows")
	seed   = flag.Uint64("seed", 0, "seed of the random instants; 0: a new one")
)

// builds is the folder of the programs under test.
var builds string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if builds, err = os.MkdirTemp("", "gateway-crash-"); err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		return 1
	}
	defer os.RemoveAll(builds)
	return m.Run()
}
