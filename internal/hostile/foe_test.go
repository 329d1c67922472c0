package hostile

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"gateway/broker/packet"
)

// An attack is what one kind of foe does. The foes stay connected until the attack is over.
type attack struct {
	*site
	mu    sync.Mutex
	foes  []*foe
	peak  int64 // bytes of the heap beyond those that the limits allow, at the worst moment; below 0: none
	used  int64 // bytes of the heap more than before, at the worst moment
	base  uint64
	light bool // nothing is weighed, which takes time
}

// weigh looks at the memory in use, with the foes that are connected now.
func (a *attack) weigh() {
	if a.light {
		return
	}
	n := int64(inUse()) - int64(a.base)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used = max(a.used, n)
	a.peak = max(a.peak, n-int64(most(a.limits, len(a.foes))))
}

// A foe is a client without manners: it says what it likes, and reads when it likes.
type foe struct {
	t   testing.TB
	nc  net.Conn
	v   packet.Version
	dec packet.Decoder
}

type encoder interface {
	Append(dst []byte, v packet.Version) []byte
}

// weighWhile weighs again and again until all are done.
func (a *attack) weighWhile(all *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			a.weigh()
		}
	}
}

// dial connects without CONNECT.
func (a *attack) dial(v packet.Version) *foe {
	a.t.Helper()
	nc, err := net.Dial("tcp", a.address)
	if err != nil {
		a.t.Error(err)
		nc, _ = net.Pipe()
		_ = nc.Close()
	}
	f := &foe{t: a.t, nc: nc, v: v, dec: packet.Decoder{Version: v}}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.foes = append(a.foes, f)
	return f
}

// connect says CONNECT, and returns the foe with the answer.
func (a *attack) connect(v packet.Version, c packet.Connect) (*foe, packet.ReasonCode) {
	a.t.Helper()
	f := a.dial(v)
	f.say(&c)
	h, body, err := f.hear()
	if err != nil || h.Type != packet.CONNACK {
		return f, packet.UnspecifiedError
	}
	ack, err := f.dec.Connack(body)
	if err != nil {
		a.t.Error(err)
	}
	return f, ack.Reason
}

// join is connect for those who are to be let in.
func (a *attack) join(v packet.Version, id string) *foe {
	a.t.Helper()
	f, reason := a.connect(v, packet.Connect{ClientID: id, CleanStart: true})
	if reason != packet.Success {
		a.t.Fatalf("%s is not let in: %s", id, reason)
	}
	return f
}

// leave cuts all connections.
func (a *attack) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range a.foes {
		_ = f.nc.Close()
	}
	a.foes = nil
}

// say sends packets, and reports whether the broker took them.
func (f *foe) say(packets ...encoder) bool {
	var b []byte
	for _, p := range packets {
		b = p.Append(b, f.v)
	}
	return f.raw(b)
}

func (f *foe) raw(b []byte) bool {
	_ = f.nc.SetWriteDeadline(time.Now().Add(patience))
	_, err := f.nc.Write(b)
	return err == nil
}

// hear returns the next packet.
func (f *foe) hear() (packet.Header, []byte, error) {
	_ = f.nc.SetReadDeadline(time.Now().Add(patience))
	var b [5]byte
	for n := 1; ; n++ {
		if _, err := io.ReadFull(f.nc, b[n-1:n]); err != nil {
			return packet.Header{}, nil, err
		}
		h, size, err := packet.ParseHeader(b[:n])
		if err != nil {
			return h, nil, err
		}
		if size > 0 {
			body := make([]byte, h.Length)
			_, err := io.ReadFull(f.nc, body)
			return h, body, err
		}
	}
}

// told returns the first failure that the broker tells of, by whatever packet.
func (f *foe) told() (packet.ReasonCode, error) {
	for {
		h, body, err := f.hear()
		if err != nil {
			return 0, err
		}
		var reasons []packet.ReasonCode
		switch h.Type {
		case packet.DISCONNECT:
			d, err := f.dec.Disconnect(body)
			return d.Reason, err
		case packet.CONNACK:
			var a packet.Connack
			a, err = f.dec.Connack(body)
			reasons = append(reasons, a.Reason)
		case packet.PUBACK, packet.PUBREC, packet.PUBCOMP:
			var a packet.Ack
			a, err = f.dec.Ack(h.Type, body)
			reasons = append(reasons, a.Reason)
		case packet.SUBACK:
			var a packet.Suback
			a, err = f.dec.Suback(h.Type, body)
			reasons = a.Reasons
		}
		if err != nil {
			return 0, err
		}
		for _, r := range reasons {
			if r.Failed() {
				return r, nil
			}
		}
	}
}

// wantTold fails unless the broker tells of a reason.
func (f *foe) wantTold(want packet.ReasonCode) {
	f.t.Helper()
	if got, err := f.told(); err != nil || got != want {
		f.t.Errorf("the foe is told %s, %v; want %s", got, err, want)
	}
}

// wantClosed fails unless the broker closes the connection.
func (f *foe) wantClosed() {
	f.t.Helper()
	for {
		if _, _, err := f.hear(); err != nil {
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				f.t.Error("the connection is still there")
			}
			return
		}
	}
}

func publish(topic string, qos packet.QoS, id uint16, payload []byte) *packet.Publish {
	return &packet.Publish{Topic: topic, QoS: qos, ID: id, Payload: payload}
}

func subscribe(qos packet.QoS, filters ...string) *packet.Subscribe {
	p := &packet.Subscribe{ID: 1}
	for _, f := range filters {
		p.Filters = append(p.Filters, packet.Subscription{Filter: f, QoS: qos})
	}
	return p
}

func name(what string, i int) string { return fmt.Sprint(what, "-", i) }
