package conformance

import (
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/packet"
	"gateway/offline"
)

var (
	target  = flag.String("target", "", "the broker to test: host:port, mqtt://host:port, or mosquitto, which is started for it; the gateway's own if empty")
	all     = flag.Bool("all", false, "run also the tests in which mosquitto is known to differ")
	verbose = flag.Bool("log", false, "show the gateway's log")
)

// A tested is the broker under test.
type tested struct {
	name    string // "gateway", "mosquitto", or "" for any other
	address string // host:port
	stop    func() error
}

var under tested

// A run starts the broker under test before the tests and stops it after them.
type run struct{ m *testing.M }

func (r run) Run() int {
	var err error
	under, err = begin(*target)
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		return 1
	}
	code := r.m.Run()
	if err := under.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance: stop the broker:", err)
		return 1
	}
	return code
}

func TestMain(m *testing.M) {
	flag.Parse()
	// Most of these tests wait for a clock, not for a processor.
	if err := flag.Set("test.parallel", "50"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(run{m})
}

// begin starts the broker that a target names, or finds where it is.
func begin(target string) (tested, error) {
	switch {
	case target == "":
		return startGateway()
	case target == "mosquitto":
		return startMosquitto()
	case strings.Contains(target, "://"):
		u, err := url.Parse(target)
		if err != nil || u.Scheme != "mqtt" {
			return tested{}, fmt.Errorf("target %s: want mqtt://host:port", target)
		}
		target = u.Host
	}
	return tested{address: target, stop: func() error { return nil }}, nil
}

// startGateway runs the gateway's broker in this process, over a store in a temporary folder. Its
// limits are small, so that tests reach them soon.
func startGateway() (tested, error) {
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return tested{}, err
	}
	log := slog.New(slog.DiscardHandler)
	if *verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	store, err := offline.Open(filepath.Join(dir, "store"), offline.Options{Log: log})
	if err != nil {
		return tested{}, err
	}
	limits := broker.Limits{ReceiveMaximum: 10, TopicAliases: 10, PacketSize: 100_000}
	server, err := broker.New(broker.Options{Store: store, Log: log, Limits: limits})
	if err != nil {
		return tested{}, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return tested{}, err
	}
	served := make(chan error, 1)
	methods, err := mechanisms(dir)
	if err != nil {
		return tested{}, err
	}
	go func() {
		served <- server.Serve(ln, broker.Listener{Name: "test", Auth: auth.Anonymous{}, Mechanisms: methods})
	}()
	stop := func() error {
		for _, err := range []error{server.Close(), <-served, store.Close(), os.RemoveAll(dir)} {
			if err != nil {
				return err
			}
		}
		return nil
	}
	return tested{"gateway", ln.Addr().String(), stop}, nil
}

// A site is one test's own part of the broker: its topics and client identifiers are its own, so
// that tests can run at the same time.
type site struct {
	t      *testing.T
	v      packet.Version
	prefix string
}

var sites atomic.Uint64

// each runs a test for some versions of the protocol, at the same time.
func each(t *testing.T, f func(*site), versions ...packet.Version) {
	t.Helper()
	t.Parallel()
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			skipKnown(t)
			f(&site{t, v, fmt.Sprintf("t%d-%d", os.Getpid(), sites.Add(1))})
		})
	}
}

// both runs a test for 3.1.1 and 5.0, v5 for 5.0, v311 for 3.1.1 only.
// every runs it for 3.1 too.
func both(t *testing.T, f func(*site))  { t.Helper(); each(t, f, packet.V311, packet.V5) }
func v5(t *testing.T, f func(*site))    { t.Helper(); each(t, f, packet.V5) }
func v311(t *testing.T, f func(*site))  { t.Helper(); each(t, f, packet.V311) }
func every(t *testing.T, f func(*site)) { t.Helper(); each(t, f, packet.V31, packet.V311, packet.V5) }

func versionName(v packet.Version) string {
	return map[packet.Version]string{packet.V31: "3.1", packet.V311: "3.1.1", packet.V5: "5.0"}[v]
}

// skipKnown skips a test in which mosquitto is known to differ, and says how. It is known by its
// name with or without the version of the protocol.
func skipKnown(t *testing.T) {
	t.Helper()
	if *all || under.name != "mosquitto" {
		return
	}
	parts := strings.SplitN(t.Name(), "/", 3)
	anyVersion := strings.Join(append(parts[:1:1], parts[min(2, len(parts)):]...), "/")
	for _, name := range []string{t.Name(), anyVersion} {
		if what, ok := differs[name]; ok {
			t.Skipf("mosquitto %s", what)
		}
	}
}

// lacks skips a test of what the broker does not offer. The gateway offers all of it.
func (s *site) lacks(what string) {
	s.t.Helper()
	if under.name == "gateway" {
		s.t.Fatal(what)
	}
	s.t.Skip(what)
}
