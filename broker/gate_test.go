package broker

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

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

// Many that come at once wait for a place as long as others get in, and no longer.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(&Limits{Connections: 100, AddressConnections: 100, Handshakes: 2})
		here := &Listener{Name: "here"}
		waited := func() time.Duration {
			began := time.Now()
			g.room(t.Context(), "here")
			return time.Since(began)
		}
		enter := func() *conn {
			t.Helper()
			c := &conn{listener: here}
			if d := waited(); d != 0 || g.enter(c, func() bool { return true }) != nil {
				t.Fatalf("one waits for %v where there is a place", d)
			}
			return c
		}
		a, b := enter(), enter()
		go func() {
			time.Sleep(time.Second)
			g.identified(a, &auth.Client{}, 0)
		}()
		if d := waited(); d != time.Second {
			t.Errorf("one waits for %v where a place is left after a second", d)
		}
		a = enter()
		go func() {
			time.Sleep(500 * time.Millisecond)
			g.leave(b)
		}()
		if d := waited(); d != 500*time.Millisecond {
			t.Errorf("one waits for %v where another leaves after half a second", d)
		}
		b = enter()
		if d := waited(); d != patience-500*time.Millisecond {
			t.Errorf("one waits for %v where nobody gets in", d)
		}
		if d := waited(); d != 0 {
			t.Errorf("the next waits for %v more", d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		g.identified(a, &auth.Client{}, 0)
		a = enter()
		began := time.Now()
		if g.room(ctx, "here"); time.Since(began) != 0 {
			t.Errorf("one waits for %v when the server closes", time.Since(began))
		}

		g.leave(a)
		g.leave(b)
		time.Sleep(time.Hour)
		a, _ = enter(), enter()
		go func() {
			time.Sleep(time.Second)
			g.identified(a, &auth.Client{}, 0)
		}()
		if d := waited(); d != time.Second {
			t.Errorf("after a quiet hour one waits for %v where a place is left after a second", d)
		}
	})
}
