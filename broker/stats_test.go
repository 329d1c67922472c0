package broker_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// The books of packets and bytes agree with what a client has sent and got.
func TestTrafficIsCounted(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	w := s.connect(packet.V311, clean("c")) // CONNECT of 15 bytes, CONNACK of 4
	w.send(subscribe(1, filter("d", 1)))    // 8 bytes, SUBACK of 5
	w.expect("SUBACK…")
	w.send(publish("d", "hello", 1, 1)) // 12 bytes; back come PUBACK of 4 and PUBLISH of 12
	for range 2 {
		w.read()
	}
	w.send(ack(packet.PUBACK, 1)) // 4 bytes
	w.silent()                    // 2 bytes each way
	w.send(&packet.Disconnect{})  // 2 bytes
	w.expect("closed")
	st := s.server.Stats()
	for _, tt := range []struct {
		what string
		got  func() int64
		want int64
	}{
		{"sockets", st.Sockets.Load, 1},
		{"CONNECT packets", st.Introduced.Load, 1},
		{"packets received", st.PacketsReceived.Load, 6},
		{"bytes received", st.BytesReceived.Load, 15 + 8 + 12 + 4 + 2 + 2},
		{"packets sent", st.PacketsSent.Load, 5},
		{"bytes sent", st.BytesSent.Load, 4 + 5 + 4 + 12 + 2},
		{"payload received", st.PayloadReceived.Load, 5},
		{"payload sent", st.PayloadSent.Load, 5},
	} {
		for deadline := time.Now().Add(2 * time.Second); tt.got() != tt.want && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if got := tt.got(); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.what, got, tt.want)
		}
	}
}

// The names below $SYS/broker are those that dashboards made for Mosquitto 2.0 look for.
func TestCustomaryNames(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	w := s.connect(packet.V5, clean("c"))
	w.send(subscribe(1, filter("$SYS/broker/#", 0)))
	w.expect("SUBACK…")
	found := make(map[string]bool)
	for got := w.read(); got != "nothing"; got = w.readWithin(300 * time.Millisecond) {
		name, _, _ := strings.Cut(strings.TrimPrefix(got, "PUBLISH $SYS/broker/"), "=")
		found[name] = true
	}
	for _, name := range customary {
		if !found[name] {
			t.Errorf("$SYS/broker/%s is missing", name)
		}
	}
}

var customary = []string{
	"version", "uptime", "clients/total", "clients/inactive", "clients/disconnected", "clients/active", "clients/connected",
	"clients/expired", "clients/maximum", "messages/stored", "messages/received", "messages/sent", "store/messages/count", "store/messages/bytes",
	"subscriptions/count", "shared_subscriptions/count", "retained messages/count", "heap/current", "heap/maximum",
	"publish/messages/dropped", "publish/messages/received", "publish/messages/sent", "publish/bytes/received",
	"publish/bytes/sent", "bytes/received", "bytes/sent",
	"load/messages/received/1min", "load/messages/received/5min", "load/messages/received/15min",
	"load/messages/sent/1min", "load/messages/sent/5min", "load/messages/sent/15min",
	"load/publish/dropped/1min", "load/publish/dropped/5min", "load/publish/dropped/15min",
	"load/publish/received/1min", "load/publish/received/5min", "load/publish/received/15min",
	"load/publish/sent/1min", "load/publish/sent/5min", "load/publish/sent/15min",
	"load/bytes/received/1min", "load/bytes/received/5min", "load/bytes/received/15min",
	"load/bytes/sent/1min", "load/bytes/sent/5min", "load/bytes/sent/15min",
	"load/sockets/1min", "load/sockets/5min", "load/sockets/15min",
	"load/connections/1min", "load/connections/5min", "load/connections/15min",
}

// The memory in use is told before the garbage collector has run for the first time.
func TestMemoryBeforeCollection(t *testing.T) {
	if os.Getenv("GOGC") != "off" {
		again := exec.Command(os.Args[0], "-test.run=^TestMemoryBeforeCollection$")
		again.Env = append(os.Environ(), "GOGC=off")
		if out, err := again.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	s := start(t, nil, broker.Limits{})
	if n := s.server.Stats().Memory.Load(); n == 0 {
		t.Error("heap/current is 0")
	}
}

// The bytes of the stored messages are those that are retained and those that wait.
func TestStoredBytes(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	slow := s.connect(packet.V311, clean("slow")) // acknowledges nothing
	slow.send(subscribe(1, filter("t", 1)))
	slow.expect("SUBACK…")
	before := s.server.StoredBytes()
	w := s.connect(packet.V311, clean("c"))
	w.send(publish("t", string(make([]byte, 1000)), 1, 1))
	w.expect("PUBACK 1")
	waiting := s.server.StoredBytes()
	p := publish("r", string(make([]byte, 1000)), 1, 2)
	p.Retain = true
	w.send(p)
	w.expect("PUBACK 2")
	if retained := s.server.StoredBytes(); waiting-before < 1000 || retained-waiting < 1000 {
		t.Errorf("%d bytes at first, %d with one that waits, %d with one that is retained", before, waiting, retained)
	}
}
