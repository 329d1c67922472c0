package broker_test

import (
	"fmt"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// When the memory is used up, the client for which most is held is disconnected and told why. Others
// stay, but get nothing new until there is room again.
func TestScarceMemory(t *testing.T) {
	runtime.GC()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	base := max(4<<20, int(live[0].Value.Uint64()))
	s := start(t, nil, broker.Limits{Memory: 8 * base})
	good := s.connect(packet.V5, clean("good"))
	slow := s.pipe(packet.V5, nil)
	c := clean("slow")
	slow.send(&c)
	slow.expect("CONNACK…")
	slow.send(subscribe(1, filter("d", 0)))
	slow.expect("SUBACK…")
	for range 8 {
		good.send(publish("d", string(make([]byte, 8<<10)), 0, 0))
	}
	good.silent()

	use := make([]byte, 7*base)
	runtime.GC()
	for deadline := time.Now().Add(10 * time.Second); s.server.Stats().Relieved.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody is disconnected")
		}
	}
	for got := ""; got != "DISCONNECT "+packet.QuotaExceeded.String(); {
		if got = slow.read(); got == "closed" || got == "nothing" {
			t.Fatalf("%s, and no DISCONNECT", got)
		}
	}
	late := s.dial(packet.V5)
	c = clean("late")
	late.send(&c)
	late.expect("CONNACK "+packet.QuotaExceeded.String(), "closed")
	good.send(subscribe(1, filter("more", 0)))
	good.expect(fmt.Sprint("SUBACK 1 ", []packet.ReasonCode{packet.QuotaExceeded}))
	kept := publish("kept", "x", 1, 1)
	kept.Retain = true
	good.send(kept)
	good.expect("PUBACK 1 " + packet.QuotaExceeded.String())
	good.send(publish("d", string(make([]byte, 20<<10)), 0, 0))
	good.expect("DISCONNECT "+packet.QuotaExceeded.String(), "closed")
	if n := s.server.Stats().Relieved.Load(); n != 1 {
		t.Errorf("%d clients are counted, want 1", n)
	}

	runtime.KeepAlive(use)
	for deadline := time.Now().Add(10 * time.Second); ; {
		late := s.dial(packet.V5)
		late.send(&c)
		if late.read() == "CONNACK Success" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("memory is scarce for ever")
		}
	}
}

// Topics with an alias have a bound in bytes.
func TestLongAliases(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	w := s.connect(packet.V5, clean("a"))
	for i := range 3 {
		p := publish(strings.Repeat("t", 30_000+i), "x", 0, 0)
		p.Properties = &packet.PublishProperties{TopicAlias: uint16(i + 1)}
		w.send(p)
	}
	w.expect("DISCONNECT "+packet.QuotaExceeded.String(), "closed")
}
