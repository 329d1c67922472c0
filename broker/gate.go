package broker

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gateway/broker/auth"
	"gateway/broker/packet"
)

// A gate counts the network connections, and lets in as many as the limits allow.
type gate struct {
	limits *Limits

	mu        sync.Mutex
	conns     map[*conn]struct{}
	addresses map[netip.Addr]int
	listeners map[string]int // by name, those with a limit of their own
	in, most  int            // clients that are let in, and were at a time
	strangers strangers      // connections whose clients are not known yet
	waiting   strangers      // those of them that wait for a service, and count here instead
	queues    map[string]*queue
	revoked   int // times that clients were disconnected for what they logged in with
}

func newGate(l *Limits) gate {
	return gate{
		limits: l, conns: make(map[*conn]struct{}), addresses: make(map[netip.Addr]int), listeners: make(map[string]int),
		strangers: newStrangers(), waiting: newStrangers(), queues: make(map[string]*queue),
	}
}

// strangers counts connections whose clients are not known yet: those of one listener keep nobody out of
// another, and those from one address nobody from elsewhere.
type strangers struct {
	on   map[string]int     // by listener
	from map[netip.Addr]int // by address of the network
}

// full returns the error of a connection for which there is no place.
func full(limit, format string, args ...any) error {
	return &packet.Error{Clause: "3.1.4", Reason: packet.QuotaExceeded, Text: fmt.Sprintf(format, args...), Limit: limit}
}

func newStrangers() strangers {
	return strangers{on: make(map[string]int), from: make(map[netip.Addr]int)}
}

// full says why there is no place for a connection, where each listener has so many.
func (s *strangers) full(c *conn, places int) error {
	switch half := (places + 1) / 2; {
	case s.on[c.listener.Name] >= places:
		return full("handshakes", "there are %d connections on this listener that have not been let in, as many as limits.handshakes allows", places)
	case c.address.IsValid() && s.from[c.address] >= half:
		return full("handshakes", "there are %d connections from this address that have not been let in, half of what limits.handshakes allows", half)
	}
	return nil
}

func (s *strangers) add(c *conn, n int) {
	s.on[c.listener.Name] += n
	if !c.address.IsValid() {
		return
	}
	if s.from[c.address] += n; s.from[c.address] == 0 {
		delete(s.from, c.address)
	}
}

// enter admits a connection and starts it with start, or says why not.
func (g *gate) enter(c *conn, start func() bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch l := g.limits; {
	case len(g.conns) >= l.Connections:
		return full("connections", "there are %d connections, as many as limits.connections allows", len(g.conns))
	case c.listener.Bounds.Connections > 0 && g.listeners[c.listener.Name] >= c.listener.Bounds.Connections:
		return full("listener_connections", "there are %d connections here, as many as the listener's limits.connections allows", c.listener.Bounds.Connections)
	case c.address.IsValid() && g.addresses[c.address] >= l.AddressConnections:
		return full("address_connections", "there are %d connections from this address, as many as limits.address_connections allows", l.AddressConnections)
	}
	if err := g.strangers.full(c, g.limits.Handshakes); err != nil {
		return err
	}
	if !start() {
		return net.ErrClosed
	}
	g.conns[c] = struct{}{}
	if g.strangers.on[c.listener.Name] == 0 {
		g.queue(c.listener.Name).latest = time.Now()
	}
	g.strangers.add(c, 1)
	if c.listener.Bounds.Connections > 0 {
		g.listeners[c.listener.Name]++
	}
	if c.address.IsValid() {
		g.addresses[c.address]++
	}
	return nil
}

// know tells that the client of a connection has been let in.
func (g *gate) know(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.known = true
	g.in++
	g.most = max(g.most, g.in)
}

// aside counts a connection among those that wait for a service instead of among those that do not, until
// back is called; see auth.Attempt.
func (g *gate) aside(c *conn) (back func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.client != nil { // one that authenticates again takes no place
		return func() {}, true
	}
	if g.waiting.full(c, g.limits.Handshakes) != nil {
		return nil, false
	}
	g.part(c)
	g.waiting.add(c, 1)
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.waiting.add(c, -1)
		g.strangers.add(c, 1)
	}, true
}

// peak returns how many clients were let in at a time, at most.
func (g *gate) peak() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return int64(g.most)
}

// holders returns the connections whose clients have been let in, with their sessions.
func (g *gate) holders() map[*conn]*Session {
	g.mu.Lock()
	defer g.mu.Unlock()
	in := make(map[*conn]*Session, len(g.conns))
	for c := range g.conns {
		if c.known {
			in[c] = c.session
		}
	}
	return in
}

// revocations returns how often revoke has been called.
func (g *gate) revocations() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.revoked
}

// identified notes who the client of a connection is. It reports false if revoke has been called
// since there were so many revocations.
func (g *gate) identified(c *conn, who *auth.Client, revocations int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.revoked != revocations {
		return false
	}
	if c.client == nil {
		g.part(c)
		g.queue(c.listener.Name).latest = time.Now()
	}
	c.client = who
	return true
}

// revoke returns the connections whose clients match.
func (g *gate) revoke(match func(*auth.Client) bool) (matching []*conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.revoked++
	for c := range g.conns {
		if c.client != nil && match(c.client) {
			matching = append(matching, c)
		}
	}
	return matching
}

// leave tells that a connection has ended.
func (g *gate) leave(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
	if c.client == nil {
		g.part(c)
	}
	if c.known {
		g.in--
	}
	if c.listener.Bounds.Connections > 0 {
		g.listeners[c.listener.Name]--
	}
	if c.address.IsValid() {
		if g.addresses[c.address]--; g.addresses[c.address] == 0 {
			delete(g.addresses, c.address)
		}
	}
}

// inside returns the connections.
func (g *gate) inside() []*conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Keys(g.conns))
}

// addressOf returns where a connection comes from, if it counts for the limit of addresses: not
// from this machine, and not through a Unix socket.
func addressOf(nc net.Conn) netip.Addr {
	a := addrOf(nc.RemoteAddr())
	if a.IsLoopback() {
		return netip.Addr{}
	}
	return a
}
