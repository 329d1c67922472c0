package broker

import (
	"net/netip"
	"testing"

	"gateway/broker/auth"
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
	if !g.identified(first[0], &auth.Client{}, 0) {
		t.Error("something was revoked")
	}
	g.know(first[0])
	g.leave(first[1])
	g.leave(first[0])
	if n := len(fill(here, one)); n != 2 {
		t.Errorf("%d places are free, want 2", n)
	}
}

// Connections that wait for a service have places of their own, as many as there are for the others.
func TestAside(t *testing.T) {
	g := newGate(&Limits{Connections: 100, AddressConnections: 100, Handshakes: 10})
	here := &Listener{Name: "here"}
	enter := func() *conn {
		c := &conn{listener: here}
		if g.enter(c, func() bool { return true }) != nil {
			return nil
		}
		return c
	}
	var waiting []*conn
	var backs []func()
	for range 10 {
		c := enter()
		if c == nil {
			t.Fatal("who waits elsewhere takes a place here")
		}
		back, ok := g.aside(c)
		if !ok {
			t.Fatalf("the places of those who wait end at %d", len(waiting))
		}
		waiting, backs = append(waiting, c), append(backs, back)
	}
	last := enter()
	if last == nil {
		t.Fatal("those who wait take the places of others")
	}
	if _, ok := g.aside(last); ok {
		t.Error("more wait than there are places")
	}
	backs[0]()
	if _, ok := g.aside(last); !ok {
		t.Error("the place of one that waits no more is not free")
	}
	backs[1]()
	g.identified(waiting[1], &auth.Client{}, 0)
	if back, ok := g.aside(waiting[1]); !ok {
		t.Error("one that authenticates again has no place")
	} else {
		back()
	}
	for i, c := range waiting {
		if i > 1 {
			backs[i]()
		}
		g.leave(c)
	}
	for range 10 {
		if enter() == nil {
			t.Error("places are lost")
		}
	}
	if enter() != nil {
		t.Error("there are more places than before")
	}
}
