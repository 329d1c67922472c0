package broker_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/packet"
)

// conversations are what clients say after CONNECT, in one version: each sets the fuzzer on
// another track.
func conversations(v packet.Version) [][]byte {
	said := func(packets ...encoder) (b []byte) {
		for _, p := range packets {
			b = p.Append(b, v)
		}
		return b
	}
	dup, kept, alias, aliased := publish("a", "x", 2, 1), publish("a/b", "x", 1, 2), publish("a/b/c/d", "x", 0, 0), publish("", "y", 0, 0)
	dup.Dup, kept.Retain = true, true
	alias.Properties = &packet.PublishProperties{TopicAlias: 1, User: []packet.UserProperty{{Name: "n", Value: "v"}}}
	aliased.Properties = &packet.PublishProperties{TopicAlias: 1, HasMessageExpiry: true, MessageExpiry: 1}
	second := clean("second")
	return [][]byte{
		said(&packet.Ping{Type: packet.PINGREQ}),
		said(subscribe(1, filter("#", 2), filter("a/+", 1)), publish("a/b", "x", 1, 1), publish("a", "x", 2, 2), ack(packet.PUBREL, 2)),
		said(publish("a", "x", 2, 1), dup, ack(packet.PUBREL, 1), ack(packet.PUBREL, 1)),
		said(subscribe(1, filter("a", 2)), publish("a", "x", 2, 1), ack(packet.PUBREC, 1), ack(packet.PUBCOMP, 1)),
		said(subscribe(1, filter("a", 1)), publish("a", "x", 1, 1), ack(packet.PUBACK, 1), ack(packet.PUBACK, 1)),
		said(kept, subscribe(3, packet.Subscription{Filter: "+/b", QoS: 1, NoLocal: v == packet.V5}), &packet.Unsubscribe{ID: 4, Filters: []string{"+/b", "none"}}),
		said(alias, aliased, subscribe(1, filter("$share/g/a/#", 1)), alias),
		said(subscribe(1, filter("$share//a", 1), filter("a/#/b", 1), filter("$SYS/#", 0))),
		said(publish("$SYS/x", "x", 1, 1), publish("a/+", "x", 0, 0)),
		said(&packet.Disconnect{}, publish("a", "x", 0, 0)),
		said(&packet.Disconnect{Reason: packet.DisconnectWithWill, HasSessionExpiry: true, SessionExpiry: 1}),
		said(&second),
		said(&packet.Auth{Reason: packet.Reauthenticate, Method: "m"}),
		said(word("x"), word("x"), anew("alice"), publish("a", "x", 1, 1), word("x"), word("x")),
		said(word("x"), publish("a", "x", 1, 1)),
		said(word("x"), word("x"), anew("bob"), word("x"), word("x")),
		[]byte("\x30\xff\xff\xff\x7f"), []byte("\xc0\x80\x00"), []byte("\x8a\x06\x00\x01\x00\x01a\xfd\xcf\x00\x6a\x02\x00\x01\xef\x00"), []byte("\x30\x05\x00\x01a\x80\x00"), []byte("\xff\xff\xff\xff\xff"), []byte("\x00"), []byte("\x82\x00"),
		[]byte("\x32\x05\x00\x01a\x00\x00"), []byte("GET / HTTP/1.1\r\n\r\n"), []byte("\x16\x03\x01\x02\x00\x01"),
	}
}

// opening returns the CONNECT before a conversation; what is odd has none, or one that begins an
// enhanced authentication.
func opening(kind byte) []byte {
	v := packet.V31 + packet.Version(kind>>2)%3
	c := packet.Connect{Version: v, ClientID: "stranger", CleanStart: kind&1 != 0}
	if kind&2 != 0 {
		c.Will = &packet.Will{Topic: "a/will", Payload: []byte("gone"), QoS: 1, Retain: true}
		c.Properties = packet.ConnectProperties{SessionExpiry: 1, HasSessionExpiry: true, ReceiveMaximum: 1, TopicAliasMaximum: 2}
	}
	if kind == 15 {
		c = by("stranger", "alice")
		return c.Append(nil, packet.V5)
	}
	if kind >= 12 {
		return nil
	}
	return c.Append(nil, v)
}

// A pair is a publisher and its subscriber, who must not notice what others do.
type pair struct {
	pub, sub *wire
	count    int
}

// exchange sends a message from one to the other.
func (p *pair) exchange(t *testing.T) {
	t.Helper()
	p.pub.t, p.sub.t = t, t
	p.count++
	p.pub.send(publish("pair/7b1e/topic", fmt.Sprint(p.count), 1, 1))
	p.sub.expect(fmt.Sprintf("PUBLISH pair/7b1e/topic=%d q1…", p.count))
	p.sub.send(ack(packet.PUBACK, uint16((p.count-1)%65535+1)))
	p.pub.expect("PUBACK 1")
}

// FuzzConnection lets one client say anything, cut into pieces anyhow, and expects that its
// connection ends with it, that no goroutine and no memory stays behind, and that two others go on
// talking.
func FuzzConnection(f *testing.F) {
	for _, v := range []packet.Version{packet.V31, packet.V311, packet.V5} {
		for _, b := range conversations(v) {
			kind := byte(v-packet.V31)<<2 | 1
			f.Add(kind, uint16(1<<15), b)
			f.Add(kind^3, uint16(1), b)
			f.Add(byte(15), uint16(1<<15), b)
		}
	}
	whole := clean("stranger")
	f.Add(byte(12), uint16(2), []byte("\x10\xff\xff\x7f\x00\x04MQTT\x05\x02\x00\x00"))
	f.Add(byte(12), uint16(3), whole.Append(nil, packet.V5))
	store := newMemory()
	defer store.close()
	server, err := broker.New(broker.Options{
		Store: store, Log: slog.New(slog.DiscardHandler),
		Limits: broker.Limits{ConnectRate: 1e6, SessionExpiry: time.Second, RetainedBytes: 64 << 10},
	})
	if err != nil {
		f.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(ln, broker.Listener{Name: "fuzz", Auth: auth.Anonymous{}, Mechanisms: []auth.Mechanism{&doorman{rounds: 2}}})
	}()
	defer func() {
		if err := errors.Join(server.Close(), <-served); err != nil {
			f.Error(err)
		}
	}()
	address := ln.Addr().String()
	var good *pair
	executions := 0
	f.Fuzz(func(t *testing.T, kind byte, piece uint16, said []byte) {
		if good == nil {
			good = newPair(t, address)
		}
		before := runtime.NumGoroutine()
		stranger(t, address, append(opening(kind%16), said...), max(int(piece), 1))
		good.exchange(t)
		eventually(t, "the stranger's goroutines are gone", func() bool { return runtime.NumGoroutine() <= before })
		if executions++; executions%1000 == 0 {
			var m runtime.MemStats
			runtime.GC()
			if runtime.ReadMemStats(&m); m.HeapAlloc > 64<<20 {
				t.Fatalf("%d MiB in use after %d connections", m.HeapAlloc>>20, executions)
			}
		}
	})
	if good != nil {
		_ = errors.Join(good.pub.nc.Close(), good.sub.nc.Close())
	}
}

func newPair(t *testing.T, address string) *pair {
	t.Helper()
	join := func(id string) *wire {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		w := &wire{t: t, nc: nc, v: packet.V311, dec: packet.Decoder{Version: packet.V311}}
		c := clean(id)
		w.send(&c)
		w.expect("CONNACK Success")
		return w
	}
	p := &pair{pub: join("7b1e-pub"), sub: join("7b1e-sub")}
	p.sub.send(subscribe(1, filter("pair/7b1e/topic", 1)))
	p.sub.expect("SUBACK…")
	return p
}

// stranger says something in pieces, then no more, and reads until the broker closes.
func stranger(t *testing.T, address string, said []byte, piece int) {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	piece = max(piece, len(said)/64) // enough cuts for a packet, not too many for a minute
	for err == nil && len(said) > 0 {
		var n int
		n, err = nc.Write(said[:min(piece, len(said))])
		said = said[n:]
	}
	if err == nil {
		err = nc.(*net.TCPConn).CloseWrite()
	}
	if err == nil {
		_, err = io.Copy(io.Discard, nc)
	}
	// A broker that closes while something is unread resets the connection.
	if err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ENOTCONN) {
		t.Fatalf("the connection does not end: %v", err)
	}
}
