// Package throttle holds off those who fail to log in again and again, and clients that connect
// without end. What it remembers is bounded, however many there are.
//
// Failures are counted by address (see auth.Origin), by user name and by client identifier. After some in a row the next
// attempt has to wait, and after each further failure twice as long. One who has logged in from an
// address since the start is not kept out by what others do to his name, nor by his neighbours.
package throttle

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"gateway/broker/auth"
	"gateway/broker/auth/recent"
)

// Limits are what a Throttle allows. The zero value of a field stands for its default.
type Limits struct {
	Failures int           // logins that may fail before there is a delay, for a user name or a client identifier; four times as many for an address; default 5
	Delay    time.Duration // the longest delay; default 5 min
	Connects int           // of one client identifier in a minute, over the network; default 60
	Names    int           // user names, client identifiers and addresses that are remembered; default 4,096
}

// Times of a throttle.
const (
	firstDelay = time.Second      // after the first failure too many
	forget     = 10 * time.Minute // without another failure
	window     = time.Minute      // in which connections are counted
)

// ofAddress is how many times more failures there may be from one address, behind which many
// devices can be.
const ofAddress = 4

// A kind is what failures are counted by.
type kind byte

const (
	byAddress kind = iota
	byUser
	byClient
	byPlace // a user name at an address: of these only attempts under way are counted
)

type subject struct {
	kind kind
	name string
}

// A count is how often something failed.
type count struct {
	failures int
	trying   int       // attempts that are under way
	last     time.Time // the last failure
	until    time.Time // there is no attempt before
}

// A pair is somebody at an address.
type pair struct {
	client, user string
	from         netip.Addr
}

// A trip counts the connections of a client.
type trip struct {
	connects int
	since    time.Time
	until    time.Time // held off
	pause    time.Duration
}

// A Throttle counts. Its methods may be called from any goroutine, and do not wait.
type Throttle struct {
	limits Limits
	now    func() time.Time

	mu      sync.Mutex
	counts  *recent.Table[subject, *count]
	trusted *recent.Table[pair, int]             // those that have logged in, and how often they failed since
	good    *recent.Table[netip.Addr, time.Time] // addresses from which somebody has
	trips   *recent.Table[string, *trip]
}

// New returns a Throttle that has seen nobody.
func New(l Limits) *Throttle {
	l.Failures, l.Delay = cmp.Or(l.Failures, 5), cmp.Or(l.Delay, 5*time.Minute)
	l.Connects, l.Names = cmp.Or(l.Connects, 60), cmp.Or(l.Names, 4096)
	return &Throttle{
		limits: l, now: time.Now,
		counts: recent.New[subject, *count](4 * l.Names), trusted: recent.New[pair, int](2 * l.Names),
		good: recent.New[netip.Addr, time.Time](l.Names), trips: recent.New[string, *trip](l.Names),
	}
}

// held returns the error for one who has to wait.
func held(why string, d time.Duration) error {
	return fmt.Errorf("%s: %w for %s", why, auth.ErrTooOften, max(d, time.Millisecond).Round(time.Millisecond))
}

// Address says whether connections from an address are worth a look: one from which nobody has
// ever logged in has to wait when too many have failed to. An address that is not valid is this machine.
func (t *Throttle) Address(from netip.Addr) error {
	if !from.IsValid() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	origin := auth.Origin(from)
	c, ok := t.counts.Get(subject{byAddress, origin.String()})
	if !ok || !t.now().Before(c.until) {
		return nil
	}
	if _, ok := t.good.Get(origin); ok {
		return nil
	}
	return held("too many logins have failed from "+origin.String(), c.until.Sub(t.now()))
}

// subjects are what the failures of an attempt are counted by.
func subjects(a *auth.Attempt) []subject {
	var all []subject
	if from := originOf(a); from.IsValid() {
		all = append(all, subject{byAddress, from.String()})
	}
	if a.Username != "" {
		all = append(all, subject{byUser, short(a.Username)})
		if from := originOf(a); from.IsValid() {
			all = append(all, subject{byPlace, from.String() + " " + short(a.Username)})
		}
	}
	if a.ClientID != "" {
		all = append(all, subject{byClient, short(a.ClientID)})
	}
	return all
}

// short returns what stands for a name here. MQTT allows names of 64 KiB, of which a few thousand would fill
// a board.
func short(name string) string {
	if len(name) <= sha256.Size {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return string(sum[:])
}

// originOf returns where an attempt comes from; it is not valid for this machine.
func originOf(a *auth.Attempt) netip.Addr {
	tcp, ok := a.Addr.(*net.TCPAddr)
	if !ok || tcp.IP.IsLoopback() {
		return netip.Addr{}
	}
	return auth.Origin(tcp.AddrPort().Addr())
}

// most is how many failures of a kind cost nothing. Behind one address many devices may share a user name.
func (t *Throttle) most(k kind) int {
	if k == byAddress || k == byPlace {
		return ofAddress * t.limits.Failures
	}
	return t.limits.Failures
}

// Enter says whether an attempt may be made now. One that may counts as under way until Done: so many
// as cost nothing when they fail can be made from one address at the same time, and one after the other when so
// many have failed.
func (t *Throttle) Enter(a *auth.Attempt) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if trip, ok := t.trips.Get(short(a.ClientID)); ok && now.Before(trip.until) {
		return held("the client connects again and again", trip.until.Sub(now))
	}
	who := trustees(a)
	if _, known := t.trusted.Get(who[0]); !known {
		_, user := t.trusted.Get(who[1])
		for _, s := range subjects(a) {
			if user && s.kind != byClient {
				continue
			}
			if err := t.check(s, now); err != nil {
				return err
			}
		}
	}
	for _, s := range subjects(a) {
		c, ok := t.counts.Get(s)
		if !ok {
			c = new(count)
			t.counts.Put(s, c)
		}
		c.trying++
	}
	return nil
}

// trustees are what a login makes trusted: the client, and its user at that address, who may come with another
// identifier each time.
func trustees(a *auth.Attempt) [2]pair {
	user, from := short(a.Username), originOf(a)
	return [...]pair{{short(a.ClientID), user, from}, {anyClient, user, from}}
}

// anyClient is no client's identifier.
const anyClient = "\x00"

// check says whether there is a delay. The lock is held.
func (t *Throttle) check(s subject, now time.Time) error {
	c, ok := t.counts.Get(s)
	if !ok {
		return nil
	}
	if c.trying == 0 && now.Sub(c.last) > max(forget, 2*t.limits.Delay) {
		c.failures, c.until = 0, time.Time{}
	}
	if now.Before(c.until) {
		return held("too many logins have failed", c.until.Sub(now))
	}
	switch {
	case s.kind == byPlace && c.trying >= t.most(s.kind):
		return held("as many logins of this user are under way from here as may fail", firstDelay)
	case s.kind != byAddress && c.trying > 0 && c.failures >= t.most(s.kind):
		return held("one login after the other, when so many have failed", firstDelay)
	}
	return nil
}

// An Outcome is what became of an attempt.
type Outcome byte

// The outcomes.
const (
	Undecided Outcome = iota // nobody could tell, or the client has not gone on
	Refused                  // for what it showed
	Passed                   // let in, but not as the user that it names
	Admitted
)

// Done tells what became of an attempt that Enter let pass.
func (t *Throttle) Done(a *auth.Attempt, o Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for _, s := range subjects(a) {
		c, ok := t.counts.Get(s)
		if !ok {
			continue // it made room
		}
		c.trying = max(0, c.trying-1)
		switch {
		case s.kind == byPlace:
		case o == Refused:
			t.fail(c, s.kind, now)
		case o == Admitted && s.kind != byAddress:
			c.failures, c.until = 0, time.Time{}
		}
		if c.trying == 0 && c.failures == 0 {
			t.counts.Delete(s)
		}
	}
	for _, who := range trustees(a) {
		switch n, ok := t.trusted.Get(who); {
		case o == Admitted && (who.client != anyClient || who.user != ""):
			t.trusted.Put(who, 0)
		case o != Refused || !ok:
		case n+1 >= t.limits.Failures:
			t.trusted.Delete(who)
		default:
			t.trusted.Put(who, n+1)
		}
	}
	if from := originOf(a); o == Admitted && from.IsValid() {
		t.good.Put(from, now)
		t.connected(short(a.ClientID), now)
	}
}

// fail counts a failure. The lock is held.
func (t *Throttle) fail(c *count, k kind, now time.Time) {
	c.failures++
	c.last = now
	if more := c.failures - t.most(k); more >= 0 {
		c.until = now.Add(min(firstDelay<<min(more, 20), t.limits.Delay))
	}
}

// connected counts a connection. The lock is held.
func (t *Throttle) connected(client string, now time.Time) {
	if client == "" {
		return
	}
	c, ok := t.trips.Get(client)
	if !ok {
		c = &trip{since: now}
		t.trips.Put(client, c)
	}
	if now.Sub(c.since) > window {
		if now.Sub(c.until) > window {
			c.pause = 0
		}
		c.connects, c.since = 0, now
	}
	if c.connects++; c.connects > t.limits.Connects {
		c.pause = min(max(2*c.pause, 10*time.Second), t.limits.Delay)
		c.until, c.connects = now.Add(c.pause), 0
	}
}
