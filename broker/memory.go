package broker

import (
	"fmt"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"gateway/broker/packet"
)

// A memory watches how many bytes of the process are in use, against limits.memory. What that
// counts is all there is: the collector says after each of its runs what it has found in use.
//
// The collector lets the memory grow to twice as much before it runs again. Therefore memory is
// scarce when half of the limit is in use.
type memory struct {
	srv    *Server
	scarce atomic.Bool
}

const (
	scarceBytes  = 16 << 10               // that may wait for a client, or be of its packet, while memory is scarce
	relieveEvery = 250 * time.Millisecond // a collection and a client, while memory is scarce
)

// watch looks at the memory in use after each run of the collector, until the server closes.
func (m *memory) watch() {
	m.look()
	if m.srv.ctx.Err() == nil {
		runtime.AddCleanup(new([64]byte), (*memory).watch, m)
	}
}

// look begins to relieve the memory if it is scarce.
func (m *memory) look() {
	used := inUse()
	m.srv.stats.Memory.Store(int64(used))
	m.srv.stats.MostMemory.Store(max(m.srv.stats.MostMemory.Load(), int64(used)))
	if used > m.limit()/2 && m.scarce.CompareAndSwap(false, true) && !m.srv.start(m.relieve) {
		m.scarce.Store(false)
	}
}

func (m *memory) limit() uint64 { return uint64(m.srv.limits.Memory) }

// relieve ends the connection of the client that has most waiting, again and again while three
// quarters of the limit are in use. It returns when memory is no longer scarce.
func (m *memory) relieve() {
	log := m.srv.log
	log.Warn("memory is scarce: new clients, subscriptions, retained messages and large packets are refused, and little waits for each client",
		"in_use", inUse(), "limit", m.limit(), "remedy", "find out who uses so much, or raise limits.memory")
	tick := time.NewTicker(relieveEvery)
	defer tick.Stop()
	for {
		runtime.GC()
		switch used := inUse(); {
		case used > m.limit()*3/4:
			if c, holds := m.srv.gate.greatest(); holds > scarceBytes {
				m.srv.stats.Relieved.Add(1)
				c.link.fail(&packet.Error{Clause: "4.13.2", Reason: packet.QuotaExceeded,
					Text: fmt.Sprintf("%d bytes are held for this client, more than for any other, and limits.memory is reached", holds), Limit: "memory"})
			}
		case used < m.limit()*7/16:
			m.scarce.Store(false)
			log.Warn("memory is no longer scarce", "in_use", used)
			return
		}
		select {
		case <-tick.C:
		case <-m.srv.ctx.Done():
			return
		}
	}
}

// errScarce is what a client is told that asks for memory while it is scarce.
func errScarce(what string) error {
	return &packet.Error{Clause: "4.13.2", Reason: packet.QuotaExceeded, Text: what + ": memory is scarce, see limits.memory", Limit: "memory"}
}

// inUse returns the bytes of the heap that the last run of the collector has found in use; before the
// first one, those of all that has been made.
func inUse() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	if live := s[0].Value.Uint64(); live > 0 {
		return live
	}
	return s[1].Value.Uint64()
}

// greatest returns the connection for whose client most bytes are held, and how many these are.
func (g *gate) greatest() (c *conn, bytes int) {
	for other, n := range g.holders() {
		if b := held(other, n); b > bytes {
			c, bytes = other, b
		}
	}
	return c, bytes
}

// held returns the bytes that wait for a client, or are of a packet that it has begun.
func held(c *conn, n *Session) int {
	n.mu.Lock()
	bytes := n.state.Queue.Bytes()
	n.mu.Unlock()
	c.link.mu.Lock()
	bytes += c.link.buf.len() + c.link.writing
	c.link.mu.Unlock()
	return bytes + int(c.large.Load())
}

// allows returns how many bytes may be held now of those that a limit allows.
func (m *memory) allows(limit int) int {
	if m.scarce.Load() {
		return min(limit, scarceBytes)
	}
	return limit
}
