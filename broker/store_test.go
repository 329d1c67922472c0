package broker_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/packet"
	"gateway/offline"
)

// A yard is a broker on the real store, which is stopped and started again under its clients.
type yard struct {
	t       *testing.T
	path    string
	address atomic.Pointer[string]
}

// serve runs the broker until stop is called.
func (y *yard) serve() (stop func()) {
	y.t.Helper()
	store, err := offline.Open(y.path, offline.Options{TelemetryCommit: 20 * time.Millisecond})
	if err != nil {
		y.t.Fatal(err)
	}
	server, err := broker.New(broker.Options{Store: store, Log: slog.New(slog.DiscardHandler), Limits: broker.Limits{Inflight: 10}})
	if err != nil {
		y.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		y.t.Fatal(err)
	}
	address := ln.Addr().String()
	y.address.Store(&address)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln, broker.Listener{Name: "yard", Auth: auth.Anonymous{}}) }()
	return func() {
		if err := server.Close(); err != nil {
			y.t.Error(err)
		}
		if err := <-served; err != nil {
			y.t.Error(err)
		}
		if err := store.Close(); err != nil {
			y.t.Error(err)
		}
	}
}

// A device is a client that keeps its side of the protocol, whatever becomes of its connection.
type device struct {
	*yard
	connect packet.Connect
	mu      sync.Mutex
	nc      net.Conn // the present one
}

// cut ends the present connection.
func (d *device) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.nc != nil {
		_ = d.nc.Close()
	}
}

// dial connects until it succeeds, and returns a wire whose packets came after CONNACK.
func (d *device) dial(stop <-chan struct{}) (w *wire, present bool) {
	for {
		select {
		case <-stop:
			return nil, false
		default:
		}
		nc, err := net.Dial("tcp", *d.address.Load())
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		d.mu.Lock()
		d.nc = nc
		d.mu.Unlock()
		w := &wire{t: d.t, nc: nc, v: packet.V5, dec: packet.Decoder{Version: packet.V5}}
		_, _ = nc.Write(d.connect.Append(nil, packet.V5))
		if got := w.read(); strings.HasPrefix(got, "CONNACK Success") {
			return w, strings.HasSuffix(got, "present")
		}
		_ = nc.Close()
	}
}

// publish publishes messages 1 to n of a topic at QoS 1 or 2, each until it is acknowledged.
func (d *device) publish(topic string, qos packet.QoS, n int) {
	w, _ := d.dial(nil)
	defer func() { _ = w.nc.Close() }()
	for i := 1; i <= n; i++ {
		p := publish(topic, fmt.Sprint(i), qos, uint16(1+i%5))
		released := false
		for done := false; !done; {
			var b []byte
			if released {
				b = ack(packet.PUBREL, p.ID).Append(nil, packet.V5)
			} else {
				b = p.Append(nil, packet.V5)
			}
			_, _ = w.nc.Write(b)
			p.Dup = true
			switch got := w.read(); {
			case strings.HasPrefix(got, "PUBACK"), strings.HasPrefix(got, "PUBCOMP"):
				done = true
			case strings.HasPrefix(got, "PUBREC"):
				released = true
			default:
				_ = w.nc.Close()
				w, _ = d.dial(nil)
			}
		}
	}
}

// receive counts the messages that arrive, by topic and payload, until stop. seen is called for
// each, in order; a repetition at QoS 2 is not one.
func (d *device) receive(stop <-chan struct{}, seen func(topic, payload string, qos int)) {
	taken := make(map[string]bool) // packet identifiers at QoS 2
	for {
		w, _ := d.dial(stop)
		if w == nil {
			return
		}
		for {
			got := w.readWithin(time.Minute)
			var topic, payload, id string
			var qos int
			var n uint16
			if fields := strings.Fields(got); len(fields) >= 4 && fields[0] == "PUBLISH" {
				topic, payload, _ = strings.Cut(fields[1], "=")
				_, _ = fmt.Sscanf(fields[2], "q%d", &qos)
				id = fields[3]
				_, _ = fmt.Sscanf(id, "id%d", &n)
				answer := ack(packet.PUBACK, n)
				if qos == 2 {
					answer = ack(packet.PUBREC, n)
				}
				if !taken[id] {
					seen(topic, payload, qos)
				}
				taken[id] = qos == 2
				_, _ = w.nc.Write(answer.Append(nil, packet.V5))
			} else if len(fields) >= 2 && fields[0] == "PUBREL" {
				_, _ = fmt.Sscanf(fields[1], "%d", &n)
				delete(taken, "id"+fields[1])
				_, _ = w.nc.Write(ack(packet.PUBCOMP, n).Append(nil, packet.V5))
			} else {
				break
			}
		}
		_ = w.nc.Close()
	}
}

// P1 to P3: on the real store, with connections cut, sessions taken over and the gateway restarted
// at random instants, a message at QoS 1 arrives at least once and one at QoS 2 exactly once, in the
// order of its topic.
func TestNothingIsLostOrDoubled(t *testing.T) {
	y := &yard{t: t, path: filepath.Join(t.TempDir(), "store.db")}
	stopServer := y.serve()
	const publishers, n = 4, 500
	sub := &device{yard: y, connect: kept("sub")}
	w, _ := sub.dial(nil)
	w.send(subscribe(1, filter("#", 2)))
	w.expect("SUBACK…")
	_ = w.nc.Close()

	var mu sync.Mutex
	counts := make(map[string]int)
	last := make(map[string]int)
	arrived := 0
	stop := make(chan struct{})
	var receiving, publishing, chaos sync.WaitGroup
	receiving.Go(func() {
		sub.receive(stop, func(topic, payload string, qos int) {
			mu.Lock()
			defer mu.Unlock()
			var i int
			_, _ = fmt.Sscan(payload, &i)
			key := topic + " " + payload
			if counts[key]++; counts[key] == 1 {
				arrived++
				if i != last[topic]+1 {
					t.Errorf("%s: %d first arrived after %d", topic, i, last[topic])
				}
				last[topic] = i
			} else if qos == 2 {
				t.Errorf("%s arrived again", key)
			}
		})
	})
	devices := []*device{sub}
	for i := range publishers {
		d := &device{yard: y, connect: kept(fmt.Sprint("pub", i))}
		devices = append(devices, d)
		publishing.Go(func() { d.publish(fmt.Sprint("t/", i), packet.QoS(1+i%2), n) })
	}
	published := make(chan struct{})
	chaos.Go(func() {
		for {
			select {
			case <-published:
				return
			case <-time.After(time.Duration(rand.IntN(20)) * time.Millisecond):
			}
			d := devices[rand.IntN(len(devices))]
			switch rand.IntN(8) {
			case 0:
				stopServer()
				stopServer = y.serve()
			case 1, 2: // another connection of the same client, which takes nothing
				thief := &device{yard: y, connect: d.connect}
				w, _ := thief.dial(nil)
				_ = w.nc.Close()
			default:
				d.cut()
			}
		}
	})
	publishing.Wait()
	close(published)
	chaos.Wait()
	eventually(t, "everything arrives", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return arrived == publishers*n
	})
	close(stop)
	sub.cut()
	receiving.Wait()
	stopServer()
	again := 0
	for _, c := range counts {
		again += c - 1
	}
	t.Logf("%d messages, %d of QoS 1 arrived again", arrived, again)
}
