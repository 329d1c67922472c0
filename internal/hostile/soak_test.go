package hostile

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gateway/broker/packet"
)

// A world is a site that is restarted now and then, over the same store.
type world struct {
	t    *testing.T
	path string

	mu       sync.Mutex
	site     *site
	restarts int
	dropped  int64 // as counted by the servers of before
	refused  int64
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, path: filepath.Join(t.TempDir(), "store.db")}
	w.begin()
	return w
}

// begin starts the next server.
func (w *world) begin() {
	limits := small
	limits.QueueMessages, limits.Sessions = 1_000_000, 1000
	s := start(w.t, limits, w.path)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.site = s
}

// end stops the server, and keeps its books.
func (w *world) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.site.stop()
	st := w.site.server.Stats()
	w.dropped += st.Dropped.Load() + st.Expired.Load() + st.TooLarge.Load()
	w.refused += st.Unstored.Load() + st.Limits.Of("retained_size") + st.Limits.Of("memory")
	if n := w.site.log.count("level=ERROR"); n > 0 {
		w.t.Errorf("%d errors in the log", n)
	}
}

func (w *world) restart() {
	w.end()
	w.begin()
	w.restarts++
}

// dial connects to the server that is there now.
func (w *world) dial(v packet.Version) (*foe, error) {
	w.mu.Lock()
	address := w.site.address
	w.mu.Unlock()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &foe{t: w.t, nc: nc, v: v, dec: packet.Decoder{Version: v}}, nil
}

// join connects a client, and tries until it is let in.
func (w *world) join(v packet.Version, c packet.Connect) (f *foe, present bool) {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		f, err := w.dial(v)
		if err == nil {
			f.say(&c)
			h, body, err := f.hear()
			if err == nil && h.Type == packet.CONNACK {
				if a, err := f.dec.Connack(body); err == nil && a.Reason == packet.Success {
					return f, a.SessionPresent
				}
			}
			_ = f.nc.Close()
		}
		if time.Now().After(deadline) {
			w.t.Errorf("%s is not let in", c.ClientID)
			return nil, false
		}
	}
}

func kept(id string) packet.Connect {
	return packet.Connect{ClientID: id, Properties: packet.ConnectProperties{SessionExpiry: 3600, HasSessionExpiry: true}}
}

// An account is one publisher and one subscriber of one topic, both with durable sessions. Messages
// are numbered.
type account struct {
	w       *world
	topic   string
	qos     packet.QoS // of both
	pv, sv  packet.Version
	cleans  bool // the subscriber throws its session away now and then, 5.0 only
	rng     *rand.Rand
	pub     *foe
	id      uint16
	arrived map[string]int
	doubled int // QoS 2 messages that came twice
	open    map[uint16]bool
	mu      sync.Mutex
	sent    int  // acknowledged to the publisher
	ended   bool // the last one is among them
}

// post publishes one message until it is acknowledged, whatever happens to the connection.
func (a *account) post(payload string) bool {
	a.id = a.id%60_000 + 1
	p := publish(a.topic, a.qos, a.id, []byte(payload))
	released := false
	for {
		if a.pub == nil {
			if a.pub, _ = a.w.join(a.pv, kept(a.topic+"-pub")); a.pub == nil {
				return false
			}
		}
		if released {
			a.pub.say(&packet.Ack{Type: packet.PUBREL, ID: a.id})
		} else {
			a.pub.say(p)
		}
		for {
			h, body, err := a.pub.hear()
			if err != nil || h.Type == packet.DISCONNECT {
				_ = a.pub.nc.Close()
				a.pub, p.Dup = nil, true
				break
			}
			ack, err := a.pub.dec.Ack(h.Type, body)
			switch {
			case err != nil, ack.ID != a.id, ack.Reason.Failed() && h.Type != packet.PUBCOMP:
				a.w.t.Errorf("%s: %s %+v, %v", a.topic, h.Type, ack, err)
				return false
			case h.Type == packet.PUBREC:
				released = true
				a.pub.say(&packet.Ack{Type: packet.PUBREL, ID: a.id})
				continue
			}
			a.sent++
			return true
		}
	}
}

// publish posts until the end. A publisher of QoS 2 breaks its connection now and then; at QoS 1
// it would be allowed to double messages.
func (a *account) publish(end <-chan struct{}) {
	rng := rand.New(rand.NewPCG(uint64(len(a.topic)), 7))
	for n := 0; ; n++ {
		select {
		case <-end:
			a.mu.Lock()
			defer a.mu.Unlock()
			a.post("last")
			a.ended = true
			if a.pub != nil {
				_ = a.pub.nc.Close()
			}
			return
		default:
		}
		a.mu.Lock()
		ok := a.post(fmt.Sprint(n))
		if ok && rng.IntN(50) == 0 {
			_ = a.pub.nc.Close()
		}
		a.mu.Unlock()
		if !ok {
			return
		}
		if rng.IntN(4) == 0 {
			time.Sleep(time.Duration(rng.IntN(4)) * time.Millisecond)
		}
	}
}

// take handles what comes until a message with the payload last, or after n messages. It reports
// whether the connection is still there.
func (a *account) take(f *foe, n int, last string) (found, alive bool) {
	for n != 0 {
		h, body, err := f.hear()
		if err != nil || h.Type == packet.DISCONNECT {
			return false, false
		}
		switch h.Type {
		case packet.PUBLISH:
			p, err := f.dec.Publish(h.Flags, body)
			if err != nil {
				a.w.t.Error(err)
				return false, false
			}
			if p.QoS == 2 {
				if !a.open[p.ID] {
					if a.arrived[string(p.Payload)]++; a.arrived[string(p.Payload)] > 1 {
						a.doubled++
					}
				}
				a.open[p.ID] = true
				f.say(&packet.Ack{Type: packet.PUBREC, ID: p.ID})
			} else {
				a.arrived[string(p.Payload)]++
				f.say(&packet.Ack{Type: packet.PUBACK, ID: p.ID})
			}
			if n--; string(p.Payload) == last {
				return true, true
			}
		case packet.PUBREL:
			ack, err := f.dec.Ack(h.Type, body)
			if err != nil {
				a.w.t.Error(err)
			}
			delete(a.open, ack.ID)
			f.say(&packet.Ack{Type: packet.PUBCOMP, ID: ack.ID})
		}
	}
	return false, true
}

// leave disconnects, and reports whether the broker has seen all acknowledgements before.
func (a *account) leave(f *foe) bool {
	defer f.nc.Close()
	f.say(&packet.Disconnect{})
	for {
		h, _, err := f.hear()
		switch {
		case errors.Is(err, io.EOF):
			return true
		case err != nil || h.Type == packet.DISCONNECT:
			return false
		}
	}
}

// subscribe begins with a clean session, which nobody publishes to meanwhile. It reports whether
// something may come; after the last message nothing will.
func (a *account) subscribe() (f *foe, open bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		c := kept(a.topic + "-sub")
		c.CleanStart = true
		if a.sv != packet.V5 {
			if f, _ := a.w.join(a.sv, c); f != nil { // ends the session of before
				_ = f.nc.Close()
			}
			c.CleanStart = false
		}
		f, _ := a.w.join(a.sv, c)
		if f == nil {
			return nil, false
		}
		clear(a.open)
		f.say(subscribe(a.qos, a.topic))
		if h, _, err := f.hear(); err == nil && h.Type == packet.SUBACK {
			return f, !a.ended
		}
		_ = f.nc.Close()
	}
}

// receive comes and goes until the last message has come.
func (a *account) receive() {
	f, _ := a.w.join(a.sv, kept(a.topic+"-sub"))
	for sure := true; f != nil; { // sure: what was acknowledged is known to the broker
		found, alive := a.take(f, 1+a.rng.IntN(200), "last")
		switch {
		case found:
			if a.leave(f) {
				return
			}
			// The broker may send it again. The messages are all there.
			return
		case !alive:
			_ = f.nc.Close()
			sure = false
		case a.cleans && !sure:
			// All that is uncertain comes before what is published now.
			a.mu.Lock()
			mark := fmt.Sprint("mark ", a.sent)
			posted := a.post(mark)
			a.mu.Unlock()
			if !posted {
				return
			}
			if found, _ := a.take(f, -1, mark); found {
				if a.arrived["last"] > 0 {
					a.leave(f)
					return
				}
				sure = true
				continue
			}
			_ = f.nc.Close()
		case a.cleans && a.rng.IntN(2) == 0:
			if sure = a.leave(f); !sure {
				break
			}
			time.Sleep(time.Duration(a.rng.IntN(100)) * time.Millisecond)
			var open bool
			if f, open = a.subscribe(); f != nil && !open {
				a.leave(f)
				return
			}
			continue
		case a.rng.IntN(3) == 0: // another connection takes the session over
			old := f
			f, _ = a.w.join(a.sv, kept(a.topic+"-sub"))
			_ = old.nc.Close()
			sure = false
			continue
		case a.rng.IntN(2) == 0:
			_ = f.nc.Close()
			sure = false
			time.Sleep(time.Duration(a.rng.IntN(50)) * time.Millisecond)
		default:
			continue
		}
		var present bool
		if f, present = a.w.join(a.sv, kept(a.topic+"-sub")); f != nil && !present && a.sv > packet.V31 { // 3.1 does not tell
			a.w.t.Errorf("%s: the session of the subscriber is gone", a.topic)
			return
		}
	}
}

// TestSoak lets clients of all versions come, go, take over, start clean and break, and the broker
// restart, for -soak. At the end the books are equal: what was acknowledged to publishers has come,
// at QoS 2 once, or was dropped with its session and counted. What a member of a shared subscription has
// left has come to another.
func TestSoak(t *testing.T) {
	w := newWorld(t)
	end := make(chan struct{})
	var accounts []*account
	var publishers, subscribers, wild sync.WaitGroup
	versions := []packet.Version{packet.V31, packet.V311, packet.V5}
	for i := range 12 {
		a := &account{
			w: w, topic: fmt.Sprint("soak-", i), qos: packet.QoS(1 + i%2), pv: versions[i%3], sv: versions[i/3%3],
			rng: rand.New(rand.NewPCG(uint64(i), 1)), arrived: map[string]int{}, open: map[uint16]bool{},
		}
		if i >= 8 {
			a.cleans, a.qos, a.pv, a.sv = true, 2, packet.V5, packet.V5
		}
		accounts = append(accounts, a)
		first, _ := a.subscribe() // before the first message
		if first == nil {
			t.Fatal("no subscription")
		}
		_ = first.nc.Close()
		publishers.Go(func() { a.publish(end) })
		subscribers.Go(a.receive)
	}
	var pools []*pool
	for i := range 4 {
		p := newPool(w, i)
		pools = append(pools, p)
		publishers.Go(func() { p.run(end) })
	}
	for i := range 6 {
		wild.Go(func() { w.runWild(i, end) })
	}
	began := time.Now()
	for time.Since(began) < *soakTime {
		time.Sleep(min(*soakTime/5, 2*time.Second))
		w.restart()
	}
	close(end)
	publishers.Wait()
	subscribers.Wait()
	wild.Wait()
	w.end()
	in, delivered, copies := 0, 0, 0
	for _, a := range accounts {
		in += a.sent
		delivered += len(a.arrived)
		for _, n := range a.arrived {
			copies += n
		}
		if a.doubled > 0 {
			t.Errorf("%s: %d messages at QoS 2 came twice", a.topic, a.doubled)
		}
		if !a.cleans && len(a.arrived) != a.sent {
			t.Errorf("%s: %d messages were acknowledged, %d have come", a.topic, a.sent, len(a.arrived))
		}
	}
	for _, p := range pools {
		i, d, c := p.check(t)
		in, delivered, copies = in+i, delivered+d, copies+c
	}
	if int64(in) != int64(delivered)+w.dropped {
		t.Errorf("%d messages were acknowledged; %d have come and %d are counted as dropped, which makes %d", in, delivered, w.dropped, int64(delivered)+w.dropped)
	}
	t.Logf("%d messages in, %d delivered (%d copies), %d dropped and counted, %d restarts", in, delivered, copies, w.dropped, w.restarts)
	w.site = nil
	eventually(t, "the memory is free", func() bool { return inUse() < 16<<20 })
}

// runWild does anything that needs no room in a queue: the books are of the others.
func (w *world) runWild(seed int, end <-chan struct{}) {
	rng := rand.New(rand.NewPCG(uint64(seed), 2))
	for {
		select {
		case <-end:
			return
		default:
		}
		v := []packet.Version{packet.V31, packet.V311, packet.V5}[rng.IntN(3)]
		c := packet.Connect{ClientID: fmt.Sprint("wild-", rng.IntN(8)), CleanStart: rng.IntN(2) == 0}
		if rng.IntN(2) == 0 {
			c.Will = &packet.Will{Topic: fmt.Sprint("nobody/", rng.IntN(20)), Payload: []byte("gone"), QoS: packet.QoS(rng.IntN(3)), Retain: rng.IntN(2) == 0}
		}
		if v == packet.V5 {
			c.Properties = packet.ConnectProperties{SessionExpiry: uint32(rng.IntN(3)), HasSessionExpiry: true, TopicAliasMaximum: 4}
		}
		f, _ := w.join(v, c)
		if f == nil {
			return
		}
		for range rng.IntN(30) {
			switch rng.IntN(6) {
			case 0:
				f.say(subscribe(packet.QoS(rng.IntN(3)), fmt.Sprint("wild/", rng.IntN(5), "/#"), "wild/+/retained"))
			case 1:
				f.say(&packet.Unsubscribe{ID: 2, Filters: []string{fmt.Sprint("wild/", rng.IntN(5), "/#")}})
			case 2:
				p := publish(fmt.Sprint("nobody/", rng.IntN(20)), packet.QoS(rng.IntN(3)), uint16(1+rng.IntN(30)), []byte("x"))
				p.Retain = rng.IntN(3) == 0
				f.say(p)
			case 3:
				f.say(&packet.Ack{Type: packet.PUBREL, ID: uint16(1 + rng.IntN(30))})
			case 4:
				f.say(&packet.Ping{Type: packet.PINGREQ})
			default:
				time.Sleep(time.Duration(rng.IntN(5)) * time.Millisecond)
			}
		}
		if rng.IntN(3) == 0 {
			f.say(&packet.Disconnect{})
		}
		_ = f.nc.Close()
	}
}
