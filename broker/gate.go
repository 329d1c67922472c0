package broker

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"gateway/broker/auth"
)

// A gate counts the network connections, and lets in as many as the limits allow.
type gate struct {
	limits *Limits

	mu        sync.Mutex
	conns     map[*conn]struct{}
	addresses map[netip.Addr]int
	listeners map[string]int // by name, those with a limit of their own
	most      int            // clients that were let in at a time
	strangers int            // connections that have not been let in by CONNECT
	revoked   int            // times that clients were disconnected for what they logged in with
}

func newGate(l *Limits) gate {
	return gate{limits: l, conns: make(map[*conn]struct{}), addresses: make(map[netip.Addr]int), listeners: make(map[string]int)}
}

// enter admits a connection and starts it with start, or says why not.
func (g *gate) enter(c *conn, start func() bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch l := g.limits; {
	case len(g.conns) >= l.Connections:
		return fmt.Errorf("there are %d connections, as many as limits.connections allows", len(g.conns))
	case c.listener.Bounds.Connections > 0 && g.listeners[c.listener.Name] >= c.listener.Bounds.Connections:
		return fmt.Errorf("there are %d connections here, as many as the listener's limits.connections allows", c.listener.Bounds.Connections)
	case c.address.IsValid() && g.addresses[c.address] >= l.AddressConnections:
		return fmt.Errorf("there are %d connections from this address, as many as limits.address_connections allows", l.AddressConnections)
	case g.strangers >= l.Handshakes:
		return fmt.Errorf("there are %d connections without CONNECT, as many as limits.handshakes allows", g.strangers)
	}
	if !start() {
		return net.ErrClosed
	}
	g.conns[c] = struct{}{}
	g.strangers++
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
	g.strangers--
	g.most = max(g.most, len(g.conns)-g.strangers)
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
	if !c.known {
		g.strangers--
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
