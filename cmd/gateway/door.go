package main

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"

	"gateway/board/clock"
	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/auth/ban"
	"gateway/broker/auth/device"
	"gateway/broker/auth/service"
	"gateway/broker/auth/throttle"
	"gateway/broker/packet"
	"gateway/config"
)

// A door is the broker's: bans, and the delays after logins that failed.
type door struct {
	bans     *ban.Check
	throttle *throttle.Throttle
}

// Knock turns away banned addresses, and those from which nothing but failures come.
func (d *door) Knock(from netip.Addr) error {
	if err := d.bans.Address(from); err != nil {
		return err
	}
	return d.throttle.Address(from)
}

// Enter turns away who is banned or has to wait.
func (d *door) Enter(a *auth.Attempt) error {
	if err := d.bans.Attempt(a); err != nil {
		return err
	}
	return d.throttle.Enter(a)
}

// Met counts, and turns away who was found to be somebody that is banned.
func (d *door) Met(a *auth.Attempt, c *auth.Client, wrong bool) error {
	outcome := throttle.Undecided
	switch {
	case c != nil && a.Username != "" && c.User != a.Username:
		outcome = throttle.Passed
	case c != nil:
		outcome = throttle.Admitted
	case wrong:
		outcome = throttle.Refused
	}
	d.throttle.Done(a, outcome)
	if c == nil {
		return nil
	}
	return d.bans.Client(c)
}

// A guestbook is everything about who may come in that is not said in the configuration, and can
// change while the gateway runs.
type guestbook struct {
	devices *device.Login
	door    *door
	control control
	service *service.Service // nil: none is asked
	purges  service.Purges

	stop    context.CancelFunc
	running sync.WaitGroup
}

// newGuestbook reads who is registered and who is banned.
func newGuestbook(c *config.Config, clock *clock.Clock, log *slog.Logger) *guestbook {
	registry := device.Open(filepath.Join(c.Gateway.Data, devicesFile))
	bans := ban.Open(filepath.Join(c.Gateway.Data, bansFile), clock.Now)
	b := &guestbook{
		devices: registry.NewLogin(log, clock.Now),
		door: &door{
			bans: bans.NewCheck(log),
			throttle: throttle.New(throttle.Limits{
				Failures: c.Limits.FailedLogins, Delay: c.Limits.LoginDelay, Connects: c.Limits.ClientConnects,
			}),
		},
		control: control{devices: registry, bans: bans, now: clock.Now, purge: func(service.Purge) error { return nil }, log: log},
		purges:  service.OpenPurges(filepath.Join(c.Gateway.Data, purgesFile)),
		stop:    func() {},
	}
	if c.Auth.HTTP == nil {
		return b
	}
	var err error
	if b.service, err = newService(c, clock, log); err != nil {
		log.Error("the HTTP service cannot be asked: whom it would decide about is not let in", "error", err,
			"remedy", "mend auth.http_auth and restart the gateway")
		return b
	}
	b.control.purge = b.service.Purge
	b.purges.Begin(b.service.Purge, log) // before anybody is let in by what is to be forgotten
	return b
}

// asked returns the HTTP service, or who stands for it.
func (b *guestbook) asked() auth.Authenticator {
	if b.service == nil {
		return noService{}
	}
	return b.service
}

// rules returns who decides what the clients of a listener may do, beside what the configuration says;
// nil: they may do everything.
func (b *guestbook) rules(l config.Listener, a *access) auth.Authorizer {
	law := a.of(l)
	if !slices.Contains(l.Auth, "http") {
		return law
	}
	if b.service == nil {
		return askedFirst{noService{}, a.rest(l), law}
	}
	if rules, ok := b.service.Rules(); ok {
		return askedFirst{rules, a.rest(l), law}
	}
	return law
}

// run follows changes, and does what administrators ask for.
func (b *guestbook) run(server *broker.Server) {
	var ctx context.Context
	ctx, b.stop = context.WithCancel(context.Background())
	disconnect := func(match func(*auth.Client) bool) { server.Disconnect(match, packet.AdministrativeAction) }
	b.running.Go(func() { b.devices.Run(ctx, disconnect) })
	b.running.Go(func() { b.door.bans.Run(ctx, disconnect) })
	b.running.Go(func() { b.purges.Run(ctx, b.control.purge, b.control.log) })
	b.running.Go(func() { b.control.run(ctx, server) })
}

// end ends what run began.
func (b *guestbook) end() {
	b.stop()
	b.running.Wait()
}

// close ends what clients were asked about, when there are none any more.
func (b *guestbook) close() error {
	if b.service != nil {
		return b.service.Close()
	}
	return nil
}
