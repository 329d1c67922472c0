package bridge

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// bubble starts a bridge with the usual waits inside a synctest bubble. dial stands for the
// network; routes, if given, for the machine's table of routes.
func bubble(t *testing.T, l *ledger, dial func(ctx context.Context, nth int) (net.Conn, error), routes ...func() []byte) (b *Bridge, stop func()) {
	t.Helper()
	config := testConfig(t, l, "mqtt://cloud")
	config.ConnectTimeout, config.AckTimeout, config.BackoffMin, config.BackoffMax = 0, 0, 0, 0
	b, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	nth := 0
	b.dial = func(ctx context.Context, _ target, _ func() (*tls.Config, error)) (net.Conn, error) {
		nth++
		return dial(ctx, nth)
	}
	b.random = func(n int64) int64 { return n - 1 } // no jitter: the longest wait
	for _, r := range routes {
		b.routes = r
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); b.Run(ctx) }()
	return b, func() { cancel(); <-ended }
}

// The wait doubles from 1 s to 60 s while the cloud cannot be reached, and begins again after a
// connection that was useful.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, 0)
		begin := time.Now()
		var at []time.Duration
		_, stop := bubble(t, l, func(ctx context.Context, nth int) (net.Conn, error) {
			at = append(at, time.Since(begin))
			if nth != 9 {
				return nil, io.ErrUnexpectedEOF
			}
			l.add(message("up/a", 1, 0))
			near, far := net.Pipe()
			go func() { // acknowledges one message
				defer far.Close()
				packets.ReadPacket(far)
				packets.NewControlPacket(packets.Connack).Write(far)
				for {
					p, err := packets.ReadPacket(far)
					if err != nil {
						return
					}
					switch p := p.(type) {
					case *packets.SubscribePacket:
						suback := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
						suback.MessageID, suback.ReturnCodes = p.MessageID, p.Qoss
						suback.Write(far)
					case *packets.PublishPacket:
						ack(packets.Puback, p.MessageID).Write(far)
						return
					}
				}
			}()
			return near, nil
		})
		time.Sleep(5 * time.Minute)
		stop()
		var waits []time.Duration
		for i := range at[1:] {
			waits = append(waits, (at[i+1] - at[i]).Round(time.Second))
		}
		want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 1, 2, 4, 8, 16, 32}
		for i := range want {
			want[i] *= time.Second
		}
		if !slices.Equal(waits, want) {
			t.Errorf("waits %v, want %v", waits, want)
		}
	})
}

func TestFullJitter(t *testing.T) {
	b := backoff{min: time.Second, max: time.Minute}
	bounds := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60}
	for i, bound := range bounds {
		if d := b.next(); d < 0 || d > bound*time.Second {
			t.Errorf("wait %d is %s, want at most %ds", i, d, bound)
		}
	}
}

// A cloud that answers CONNECT and is then heard no more is noticed within 40 s, with the
// default keep alive.
func TestDeadCloudIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, 0)
		up := make(chan time.Time, 1)
		b, stop := bubble(t, l, func(ctx context.Context, nth int) (net.Conn, error) {
			if nth > 1 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				packets.ReadPacket(far)
				packets.NewControlPacket(packets.Connack).Write(far)
				packets.ReadPacket(far) // SUBSCRIBE
				suback := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
				suback.MessageID, suback.ReturnCodes = requestIDs+1, []byte{2}
				suback.Write(far)
				up <- time.Now()
				io.Copy(io.Discard, far)
			}()
			return near, nil
		})
		time.Sleep(time.Second)
		if s := b.State().State; s != Connected {
			t.Fatalf("state is %s", s)
		}
		time.Sleep(40 * time.Second)
		s := b.State()
		if s.State != Down || !strings.Contains(s.LastError, "no answer in time") {
			t.Errorf("40 s after the last byte: %+v", s)
		}
		if d := s.Since.Sub(<-up); d < 25*time.Second {
			t.Errorf("given up after %s, a living cloud has 25 s to send something", d)
		}
		stop()
	})
}

// An idle connection is kept for hours by pings alone.
func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, 0)
		var pings atomic.Int64
		b, stop := bubble(t, l, func(ctx context.Context, nth int) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				for {
					p, err := packets.ReadPacket(far)
					if err != nil {
						return
					}
					switch p := p.(type) {
					case *packets.ConnectPacket:
						packets.NewControlPacket(packets.Connack).Write(far)
					case *packets.SubscribePacket:
						suback := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
						suback.MessageID, suback.ReturnCodes = p.MessageID, p.Qoss
						suback.Write(far)
					case *packets.PingreqPacket:
						pings.Add(1)
						packets.NewControlPacket(packets.Pingresp).Write(far)
					}
				}
			}()
			return near, nil
		})
		begin := time.Now()
		time.Sleep(3 * time.Hour)
		if s := b.State(); s.State != Connected || s.Since.Sub(begin) > time.Second {
			t.Errorf("after three idle hours: %+v", s)
		}
		if n := pings.Load(); n < 300 {
			t.Errorf("%d pings in three hours, want one each 30 to 35 s", n)
		}
		stop()
	})
}

// Wherever a connection attempt gets stuck, it ends with the connect timeout, and at once when
// the bridge is stopped.
func TestBlackHole(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, scheme := range []string{"mqtt", "mqtts"} {
		l := newLedger(t, 0)
		config := testConfig(t, l, scheme+"://"+ln.Addr().String())
		config.ConnectTimeout = 50 * time.Millisecond
		b, stop := start(t, config)
		eventually(t, scheme+": a timeout", func() bool { return strings.Contains(b.State().LastError, "no answer in time") })
		stop()

		config.ConnectTimeout = time.Hour
		_, stop = start(t, config)
		begin := time.Now()
		stop()
		if d := time.Since(begin); d > time.Second {
			t.Errorf("%s: it took %s to stop", scheme, d)
		}
	}
}
