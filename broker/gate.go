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
	strangers strangers      // connections that have not been let in by CONNECT
	revoked   int            // times that clients were disconnected for what they logged in with
}

func newGate(l *Limits) gate {
	return gate{
		limits: l, conns: make(map[*conn]struct{}), addresses: make(map[netip.Addr]int), listeners: make(map[string]int),
		strangers: strangers{on: make(map[string]int), from: make(map[netip.Addr]int)},
	}
}

// strangers counts connections that have not been let in: those of one listener, which may wait for
// a slow service, keep nobody out of another, and those from one address nobody from elsewhere.
type strangers struct {
	all  int
	on   map[string]int     // by listener
	from map[netip.Addr]int // by address of the network
}

func (s *strangers) add(c *conn, n int) {
	s.all += n
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
		return fmt.Errorf("there are %d connections, as many as limits.connections allows", len(g.conns))
	case c.listener.Bounds.Connections > 0 && g.listeners[c.listener.Name] >= c.listener.Bounds.Connections:
		return fmt.Errorf("there are %d connections here, as many as the listener's limits.connections allows", c.listener.Bounds.Connections)
	case c.address.IsValid() && g.addresses[c.address] >= l.AddressConnections:
		return fmt.Errorf("there are %d connections from this address, as many as limits.address_connections allows", l.AddressConnections)
	case g.strangers.on[c.listener.Name] >= l.Handshakes:
		return fmt.Errorf("there are %d connections on this listener that have not been let in, as many as limits.handshakes allows", l.Handshakes)
	case c.address.IsValid() && g.strangers.from[c.address] >= (l.Handshakes+1)/2:
		return fmt.Errorf("there are %d connections from this address that have not been let in, half of what limits.handshakes allows", (l.Handshakes+1)/2)
	}
	if !start() {
		return net.ErrClosed
	}
	g.conns[c] = struct{}{}
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
	g.strangers.add(c, -1)
	g.most = max(g.most, len(g.conns)-g.strangers.all)
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
		g.strangers.add(c, -1)
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
