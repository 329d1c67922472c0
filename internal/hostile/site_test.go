// Package hostile lets clients of all bad manners loose on a running broker, beside good ones that
// must not notice: what they send arrives, memory stays within what the limits add up to, whoever
// breaks a limit is told, and nothing is left when all have gone. It also lets good clients run
// wild for a long time, and compares the books at the end.
package hostile

import (
	"bytes"
	"errors"
	"flag"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/offline"
)

var (
	measure  = flag.Bool("measure", false, "print what good clients notice of each attack")
	soakTime = flag.Duration("soak", 3*time.Second, "how long TestSoak runs")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small are the limits of a small board, made smaller where that makes a test shorter.
var small = broker.Limits{
	Connections: 200, Handshakes: 50, ConnectRate: 3000, Sessions: 250,
	PacketSize: 64 << 10, ReceiveMaximum: 100, Inflight: 20,
	Subscriptions: 100, SubscriptionBytes: 2 << 20, ClientIDBytes: 64, WillBytes: 4 << 10,
	QueueMessages: 1000, QueueBytes: 64 << 10, RetainedBytes: 2 << 20,
	OutBytes: 64 << 10, ConnectTime: time.Second, WriteTime: 2 * time.Second,
}

// most is how many bytes the limits allow so many connections and all sessions to occupy, with
// what the store, the queues of committed batches and the test itself take beside them.
func most(l broker.Limits, connections int) uint64 {
	connection := l.QueueBytes + 4*l.OutBytes + 2*l.PacketSize + 64*int(l.ReceiveMaximum) + 32<<10
	session := 4<<10 + l.WillBytes + 8*l.ClientIDBytes
	const beside = 24 << 20
	return uint64(connections*connection + l.Sessions*session + l.RetainedBytes + l.SubscriptionBytes + beside)
}

// A site is a running broker over a real store, on loopback.
type site struct {
	t       testing.TB
	limits  broker.Limits
	period  time.Duration // between two messages of a good client, at least
	address string
	books
	server *broker.Server // nil if it is in another process
	store  *offline.Store
	log    *journal
	stop   func()
}

// Books are what a broker notes of its clients.
type books interface {
	lines(text string) int     // lines of the log that have a text
	counter(name string) int64 // one of broker.Stats, by the name of its field
}

// open are the books of a broker in this process.
type open struct{ s *site }

func (o open) lines(text string) int { return o.s.log.count(text) }

func (o open) counter(name string) int64 {
	if limit, ok := strings.CutPrefix(name, "refused/"); ok {
		return o.s.server.Stats().Limits.Of(limit)
	}
	return reflect.ValueOf(o.s.server.Stats()).Elem().FieldByName(name).Addr().Interface().(*atomic.Int64).Load()
}

func start(t testing.TB, limits broker.Limits, path string) *site {
	t.Helper()
	return startOn(t, limits, path, func(s *offline.Store) broker.Store { return s })
}

// startOn is start for a broker that does not use the store itself, but what disk makes of it.
func startOn(t testing.TB, limits broker.Limits, path string, disk func(*offline.Store) broker.Store) *site {
	t.Helper()
	s := &site{t: t, limits: limits, period: 4 * time.Millisecond, log: new(journal)}
	s.books = open{s}
	log := slog.New(slog.NewTextHandler(s.log, nil))
	if path == "" {
		path = filepath.Join(t.TempDir(), "store.db")
	}
	var err error
	if s.store, err = offline.Open(path, offline.Options{Log: log}); err != nil {
		t.Fatal(err)
	}
	if s.server, err = broker.New(broker.Options{Store: disk(s.store), Limits: limits, Log: log}); err != nil {
		t.Fatal(errors.Join(err, s.store.Close()))
	}
	ln, err := shallow.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(errors.Join(err, s.server.Close(), s.store.Close()))
	}
	s.address = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(ln, broker.Listener{Name: "hostile", Auth: auth.Anonymous{}}) }()
	s.stop = sync.OnceFunc(func() {
		if err := errors.Join(s.server.Close(), <-served, s.store.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

// shallow makes listeners for whose connections the kernel holds little back: that is not the
// broker's memory, and would make attacks longer.
var shallow = net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
	var err error
	broken := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 16<<10)
	})
	return errors.Join(broken, err)
}}

// A journal counts the lines of a log.
type journal struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines.Write(b)
}

// count returns how many lines have a text.
func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for line := range strings.Lines(j.lines.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// inUse returns the bytes of the heap that are in use.
func inUse() uint64 {
	runtime.GC()
	runtime.GC() // a pool gives up what it has at the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// eventually fails if a condition does not come to hold.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}
