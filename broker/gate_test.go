package broker

import (
	"net/netip"
	"testing"
)

// Connections that are not let in, because they say nothing or because a service that decides about
// them is slow, keep nobody out of another listener, and those from one address nobody from another.
func TestStrangersOfOthers(t *testing.T) {
	g := newGate(&Limits{Connections: 100, AddressConnections: 100, Handshakes: 10})
	here, there := &Listener{Name: "here"}, &Listener{Name: "there"}
	one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	enter := func(l *Listener, from netip.Addr) *conn {
		c := &conn{listener: l, address: from}
		if g.enter(c, func() bool { return true }) != nil {
			return nil
		}
		return c
	}
	fill := func(l *Listener, from netip.Addr) (in []*conn) {
		for range 20 {
			if c := enter(l, from); c != nil {
				in = append(in, c)
			}
		}
		return in
	}
	first := fill(here, one)
	if n, m := len(first), len(fill(here, other)); n != 5 || m != 5 {
		t.Errorf("%d and %d connections from two addresses, want 5 and 5", n, m)
	}
	if n := len(fill(here, netip.Addr{})); n != 0 {
		t.Errorf("%d connections more than limits.handshakes on one listener", n)
	}
	if enter(there, netip.Addr{}) == nil {
		t.Error("another listener is closed, too")
	}
	if enter(there, one) != nil {
		t.Error("an address has another half on another listener")
	}
	g.know(first[0])
	g.leave(first[1])
	g.leave(first[0])
	if n := len(fill(here, one)); n != 2 {
		t.Errorf("%d places are free, want 2", n)
	}
}
