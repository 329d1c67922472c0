package device

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"gateway/broker/auth"
)

// lookEvery is how often the file is looked at: a change is in force within a second.
const lookEvery = 300 * time.Millisecond

// A Login is an auth.Authenticator for the devices of a registry, as the file has them now.
type Login struct {
	r       *Registry
	log     *slog.Logger
	now     func() time.Time
	devices atomic.Pointer[map[string]*Device] // by name; never changed
}

// NewLogin returns an authenticator for the devices that are in the file now. With a file that
// cannot be read it knows none. Now tells the time of day, by which devices expire.
func (r *Registry) NewLogin(log *slog.Logger, now func() time.Time) *Login {
	l := &Login{r: r, log: log, now: now}
	l.devices.Store(new(map[string]*Device))
	l.see(r.ledger.Read())
	return l
}

// Run follows changes of the file until ctx ends. Clients that are no longer welcome are handed to
// disconnect.
func (l *Login) Run(ctx context.Context, disconnect func(match func(*auth.Client) bool)) {
	l.r.ledger.Follow(ctx, lookEvery, func(all []Device, err error) {
		revoked := l.see(all, err)
		if len(revoked) > 0 {
			disconnect(func(c *auth.Client) bool { return c.By == By && revoked[c.User] })
		}
	})
}

// see takes what the file has now, and returns the names of devices whose sessions are to end.
func (l *Login) see(all []Device, err error) (revoked map[string]bool) {
	if err != nil {
		l.log.Error("the devices cannot be read: those that are known stay", "error", err)
		return nil
	}
	now := make(map[string]*Device, len(all))
	for i := range all {
		now[all[i].Name] = &all[i]
	}
	revoked = make(map[string]bool)
	for name, old := range *l.devices.Swap(&now) {
		if d, ok := now[name]; !ok || !d.keeps(old) {
			revoked[name] = true
		}
	}
	return revoked
}

// Authenticate lets in a device that shows its secret. What else is wrong with it, it is told only
// then.
func (l *Login) Authenticate(_ context.Context, a auth.Attempt) (auth.Identity, error) {
	d, ok := (*l.devices.Load())[a.Username]
	if !ok || a.Username == "" {
		(&Device{Secrets: []Secret{{Sum: sha256.Sum256(nil)}}}).fits(a.Password, l.now()) // it takes as long
		return auth.Identity{}, fmt.Errorf("no device %q: %w", a.Username, auth.ErrUnknown)
	}
	now := l.now()
	s, ok := d.fits(a.Password, now)
	if !ok {
		return auth.Identity{}, fmt.Errorf("device %s: wrong secret, or one that was replaced: %w", d.Name, auth.ErrBadCredentials)
	}
	if err := d.Admit(a.ClientID, now); err != nil {
		return auth.Identity{}, err
	}
	if err := d.From(a.Addr); err != nil {
		return auth.Identity{}, err
	}
	id := auth.Identity{User: d.Name, ClientID: d.ClientID, Expires: d.Expires, By: By}
	if !s.Expires.IsZero() && (id.Expires.IsZero() || s.Expires.Before(id.Expires)) {
		id.Expires = s.Expires
	}
	return id, nil
}

// Admit says why a device does not come in with a client identifier, whatever it shows; nil: it does.
func (d *Device) Admit(clientID string, now time.Time) error {
	switch {
	case d.Disabled:
		return fmt.Errorf("device %s is disabled: %w", d.Name, auth.ErrBanned)
	case passed(d.Expires, now):
		return fmt.Errorf("device %s expired on %s", d.Name, d.Expires.Format(time.DateOnly))
	case d.ClientID != "" && clientID != d.ClientID:
		return fmt.Errorf("device %s may only be %q, not %q", d.Name, d.ClientID, clientID)
	}
	return nil
}

// From says why a device may not come from an address; nil: it may.
func (d *Device) From(addr net.Addr) error {
	if len(d.Addresses) == 0 {
		return nil
	}
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return errors.New("device " + d.Name + " has to come over the network, from one of its addresses")
	}
	ip := auth.Address(tcp.AddrPort().Addr())
	if !slices.ContainsFunc(d.Addresses, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return fmt.Errorf("device %s may not come from %s", d.Name, ip)
	}
	return nil
}
