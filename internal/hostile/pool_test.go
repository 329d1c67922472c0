package hostile

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"gateway/broker/packet"
)

// A pool is one publisher, and a shared subscription with members that come, go, and end their sessions with
// messages that they have not acknowledged. One member keeps its session.
type pool struct {
	pub     *account
	members []*mate

	mu      sync.Mutex
	arrived map[string]int
}

// A mate is a member of a pool.
type mate struct {
	*pool
	id     string
	rng    *rand.Rand
	f      *foe
	joined bool            // its subscription was acknowledged
	open   map[uint16]bool // QoS 2 messages it has taken, for which PUBREL has not come
}

func newPool(w *world, n int) *pool {
	p := &pool{arrived: make(map[string]int)}
	p.pub = &account{w: w, topic: fmt.Sprint("pool-", n), qos: packet.QoS(1 + n%2), pv: packet.V5}
	for i := range 4 {
		m := &mate{pool: p, id: fmt.Sprintf("mate-%d-%d", n, i), rng: rand.New(rand.NewPCG(uint64(n), uint64(i))), open: make(map[uint16]bool)}
		p.members = append(p.members, m)
		m.come(false)
	}
	return p
}

// run lets the members run wild until the end, and then the one that has kept its session take what is left.
func (p *pool) run(end <-chan struct{}) {
	var all sync.WaitGroup
	all.Go(func() { p.pub.publish(end) })
	for i, m := range p.members {
		all.Go(func() { m.run(i == 0, end) })
	}
	all.Wait()
	p.pub.post("the very last")
	for last := p.members[0]; p.times("the very last") == 0 && !p.pub.w.t.Failed(); {
		if !last.take(true) {
			last.come(false)
		}
	}
	for _, m := range p.members {
		_ = m.f.nc.Close()
	}
	_ = p.pub.pub.nc.Close()
}

func (p *pool) times(payload string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.arrived[payload]
}

// come connects, and sees to it that the session is a member.
func (m *mate) come(clean bool) {
	for {
		c := kept(m.id)
		c.CleanStart = clean
		f, present := m.pub.w.join(packet.V5, c)
		if f == nil {
			return
		}
		if m.f = f; !present {
			m.joined = false
			clear(m.open)
		}
		if !m.joined {
			m.f.say(subscribe(m.pub.qos, "$share/pool/"+m.pub.topic))
			m.joined = m.until(packet.SUBACK, true)
		}
		if m.joined {
			return
		}
		_ = m.f.nc.Close()
		clean = false
	}
}

// until handles what comes until a packet of a type, and reports whether that has come. A message that is not
// kept is not acknowledged.
func (m *mate) until(last packet.Type, keep bool) bool {
	for {
		h, body, err := m.f.hear()
		switch {
		case err != nil || h.Type == packet.DISCONNECT:
			return false
		case h.Type == last:
			return true
		case h.Type == packet.PUBREL:
			a, err := m.f.dec.Ack(h.Type, body)
			if err != nil {
				m.pub.w.t.Error(err)
			}
			delete(m.open, a.ID)
			m.f.say(&packet.Ack{Type: packet.PUBCOMP, ID: a.ID})
		case h.Type == packet.PUBLISH:
			p, err := m.f.dec.Publish(h.Flags, body)
			if err != nil {
				m.pub.w.t.Error(err)
				return false
			}
			again := p.QoS == 2 && m.open[p.ID]
			if !keep && !again {
				continue
			}
			if !again {
				m.mu.Lock()
				m.arrived[string(p.Payload)]++
				m.mu.Unlock()
			}
			if p.QoS == 2 {
				m.open[p.ID] = true
				m.f.say(&packet.Ack{Type: packet.PUBREC, ID: p.ID})
			} else {
				m.f.say(&packet.Ack{Type: packet.PUBACK, ID: p.ID})
			}
		}
	}
}

// take handles what has come, and reports whether the connection is still there.
func (m *mate) take(keep bool) bool {
	return m.f.say(&packet.Ping{Type: packet.PINGREQ}) && m.until(packet.PINGRESP, keep)
}

// finish goes on until the broker knows what of QoS 2 has come. It takes nothing new.
func (m *mate) finish() {
	for len(m.open) > 0 && !m.pub.w.t.Failed() {
		if !m.take(false) {
			_ = m.f.nc.Close()
			m.come(false)
		}
	}
}

func (m *mate) run(stays bool, end <-chan struct{}) {
	for {
		select {
		case <-end:
			if !stays {
				m.finish()
				c := packet.Connect{ClientID: m.id, CleanStart: true}
				f, _ := m.pub.w.join(packet.V5, c) // when it is let in, its session has ended
				_ = m.f.nc.Close()
				m.f = f
			}
			return
		default:
		}
		old := m.f
		if !m.take(true) {
			m.come(false)
			_ = old.nc.Close()
			continue
		}
		switch what := m.rng.IntN(12); {
		case what == 0:
			m.come(false) // takes its session over
		case what == 1:
			_ = m.f.nc.Close()
			time.Sleep(time.Duration(m.rng.IntN(20)) * time.Millisecond)
			m.come(false)
		case what < 6 && !stays:
			m.quit()
		default:
			continue
		}
		_ = old.nc.Close()
	}
}

// quit ends the session, one way or another, with messages that are not acknowledged.
func (m *mate) quit() {
	if m.rng.IntN(3) == 0 {
		m.joined = false
		m.f.say(&packet.Unsubscribe{ID: 7, Filters: []string{"$share/pool/" + m.pub.topic}})
	}
	m.take(false)
	m.finish()
	old := m.f
	switch m.rng.IntN(3) {
	case 0:
		m.f.say(&packet.Disconnect{HasSessionExpiry: true})
		m.until(packet.DISCONNECT, false) // does not come
		m.come(false)
	case 1:
		m.f.say(&packet.Disconnect{})
		time.Sleep(time.Duration(m.rng.IntN(20)) * time.Millisecond)
		m.come(true)
	default:
		m.come(true)
	}
	_ = old.nc.Close()
}

// check compares the books of a pool, and returns what went in and what has come.
func (p *pool) check(t *testing.T) (in, delivered, copies int) {
	for payload, n := range p.arrived {
		copies += n
		if p.pub.qos == 2 && n > 1 {
			t.Errorf("%s: message %s at QoS 2 came %d times", p.pub.topic, payload, n)
		}
	}
	if n := len(p.arrived); n > p.pub.sent || p.pub.qos == 1 && n < p.pub.sent {
		t.Errorf("%s: %d messages were acknowledged, %d have come", p.pub.topic, p.pub.sent, n)
	}
	return p.pub.sent, len(p.arrived), copies
}
