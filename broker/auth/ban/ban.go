// Package ban is the list of those who are kept out, whatever they show.
package ban

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"gateway/broker/auth"
	"gateway/broker/auth/ledger"
)

// A Kind is what a ban goes by.
type Kind string

// The kinds.
const (
	Client  Kind = "client"  // a client identifier
	Pattern Kind = "pattern" // client identifiers, * stands for any text
	User    Kind = "user"    // a user name: the one shown, and the one that a client was found to be
	Address Kind = "address" // an IP address or a range of them: 192.0.2.7, 192.0.2.0/24. This machine is not kept out
	Serial  Kind = "serial"  // of a client certificate, in hexadecimal digits
)

// A Ban keeps somebody out.
type Ban struct {
	Kind   Kind      `json:"kind"`
	Value  string    `json:"value"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // zero: until it is removed
}

// Parse reads KIND:VALUE.
func Parse(s string) (Ban, error) {
	kind, value, ok := strings.Cut(s, ":")
	b := Ban{Kind: Kind(kind), Value: value}
	if !ok {
		return b, fmt.Errorf("%q: KIND:VALUE is wanted, as in client:dev-7, pattern:test-*, user:bob, address:192.0.2.0/24 or serial:0a1b", s)
	}
	return b, b.clean()
}

// String returns KIND:VALUE.
func (b *Ban) String() string { return string(b.Kind) + ":" + b.Value }

// maxText bounds what a ban goes by, and its reason, in bytes.
const maxText = 512

// clean checks a ban, and gives its value the form in which it is compared.
func (b *Ban) clean() error {
	if b.Value == "" || len(b.Value) > maxText || len(b.Reason) > maxText {
		return fmt.Errorf("a value or a reason of a ban has at most %d bytes, and a value has some", maxText)
	}
	if strings.ContainsFunc(b.Reason, unicode.IsControl) {
		return errors.New("a reason is one line of text")
	}
	switch b.Kind {
	case Client, User, Pattern:
		return nil
	case Address:
		p, err := ParseRange(b.Value)
		if err != nil {
			return err
		}
		b.Value = p.String()
		return nil
	case Serial:
		s := strings.ToLower(strings.ReplaceAll(b.Value, ":", ""))
		s = strings.TrimLeft(strings.TrimPrefix(s, "0x"), "0")
		if s == "" || strings.Trim(s, "0123456789abcdef") != "" {
			return fmt.Errorf("%q: a serial number is written in hexadecimal digits", b.Value)
		}
		b.Value = s
		return nil
	}
	return fmt.Errorf("%q: a ban is for a client, a pattern, a user, an address or a serial", string(b.Kind))
}

// ParseRange reads an address, or a range of them.
func ParseRange(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil {
		ip = ip.Unmap().WithZone("")
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q: an address or a range is wanted, as 192.0.2.7 or 192.0.2.0/24", s)
	}
	return p.Masked(), nil
}

func (b *Ban) over(now time.Time) bool { return !b.Until.IsZero() && !now.Before(b.Until) }

// err is the error for somebody whom a ban keeps out.
func (b *Ban) err() error {
	reason := b.Reason
	if reason != "" {
		reason = ": " + reason
	}
	return fmt.Errorf("%s is %w%s", b, auth.ErrBanned, reason)
}

// A List is the file with the bans. Changes may be made by several processes.
type List struct {
	ledger *ledger.Ledger[Ban]
	now    func() time.Time
}

// Open returns the list in the file at path, which need not be there yet. Now tells the time of day, by
// which bans begin and end.
func Open(path string, now func() time.Time) *List { return &List{ledger.New[Ban](path, "bans"), now} }

// All returns the bans that are in force.
func (l *List) All() ([]Ban, error) {
	all, err := l.ledger.Read()
	return l.inForce(all), err
}

func (l *List) inForce(all []Ban) []Ban {
	now := l.now()
	return slices.DeleteFunc(all, func(b Ban) bool { return b.over(now) })
}

// Add adds a ban, in place of one for the same if there is one.
func (l *List) Add(b Ban) error {
	if err := b.clean(); err != nil {
		return err
	}
	b.Since = l.now().UTC().Truncate(time.Second)
	if b.over(b.Since) {
		return errors.New("it would be over already")
	}
	return l.ledger.Change(func(all []Ban) ([]Ban, error) {
		return append(without(l.inForce(all), b), b), nil
	})
}

// ErrNotFound says that there is no such ban.
var ErrNotFound = errors.New("no such ban")

// Remove removes a ban.
func (l *List) Remove(b Ban) error {
	if err := b.clean(); err != nil {
		return err
	}
	return l.ledger.Change(func(all []Ban) ([]Ban, error) {
		all = l.inForce(all)
		left := without(slices.Clone(all), b)
		if len(left) == len(all) {
			return nil, fmt.Errorf("%s: %w", &b, ErrNotFound)
		}
		return left, nil
	})
}

func without(all []Ban, b Ban) []Ban {
	return slices.DeleteFunc(all, func(other Ban) bool { return other.Kind == b.Kind && other.Value == b.Value })
}

// lookEvery is how often the file is looked at: a change is in force within a second.
const lookEvery = 300 * time.Millisecond

// A Check knows the bans of a list as the file has them now. Its methods do not wait, whatever the
// number of bans.
type Check struct {
	l    *List
	log  *slog.Logger
	bans atomic.Pointer[index] // never changed
}

// NewCheck returns a Check of the bans that are in the file now. With a file that cannot be read it
// knows none.
func (l *List) NewCheck(log *slog.Logger) *Check {
	c := &Check{l: l, log: log}
	c.bans.Store(newIndex(nil, l.now))
	c.see(l.ledger.Read())
	return c
}

// Run follows changes of the file until ctx ends. Clients that are banned now are handed to
// disconnect.
func (c *Check) Run(ctx context.Context, disconnect func(match func(*auth.Client) bool)) {
	c.l.ledger.Follow(ctx, lookEvery, func(all []Ban, err error) {
		if c.see(all, err) {
			disconnect(func(client *auth.Client) bool { return c.Client(client) != nil })
		}
	})
}

func (c *Check) see(all []Ban, err error) (ok bool) {
	if err != nil {
		c.log.Error("the bans cannot be read: those that are known stay", "error", err)
		return false
	}
	for i := range all {
		if err := all[i].clean(); err != nil {
			c.log.Error("a ban keeps nobody out", "ban", all[i].String(), "error", err)
		}
	}
	c.bans.Store(newIndex(all, c.l.now))
	return len(all) > 0
}

// Address says whether an address is banned. It wraps auth.ErrBanned.
func (c *Check) Address(a netip.Addr) error { return c.bans.Load().address(a) }

// Attempt says whether one who wants to come in is banned.
func (c *Check) Attempt(a *auth.Attempt) error {
	x := c.bans.Load()
	if err := cmp.Or(x.client(a.ClientID), x.find(User, a.Username)); err != nil {
		return err
	}
	if a.Certificate != nil {
		if err := x.find(Serial, a.Certificate.SerialNumber.Text(16)); err != nil {
			return err
		}
	}
	if tcp, ok := a.Addr.(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		return x.address(tcp.AddrPort().Addr())
	}
	return nil
}

// Client says whether one who is in is banned.
func (c *Check) Client(client *auth.Client) error {
	x := c.bans.Load()
	err := cmp.Or(x.client(client.ID), x.find(User, client.User))
	if err == nil && client.Certificate != nil {
		err = x.find(Serial, client.Certificate.SerialNumber.Text(16))
	}
	if err == nil && !client.Addr.IsLoopback() {
		err = x.address(client.Addr)
	}
	return err
}
