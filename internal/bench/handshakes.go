package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"
)

// handshakes measures mutual TLS connects: new ones, those of clients that come back with a ticket, and
// the handshake alone, beside that of openssl.
func handshakes(ctx context.Context, b *bench) error {
	err := b.figures(ctx, "connect by mutual TLS, per connection; coming back", func(p *process) ([]float64, error) {
		cache := tls.NewLRUClientSessionCache(1)
		full, err := connects(ctx, b.span, p, b.certs.transport("mqtts", nil), false)
		if err != nil {
			return nil, err
		}
		again, err := connects(ctx, b.span, p, b.certs.transport("mqtts", cache), true)
		if errors.Is(err, errNotResumed) {
			return []float64{microseconds(full), 0}, nil
		}
		return []float64{microseconds(full), microseconds(again)}, err
	}, func(v []float64) string {
		if v[1] == 0 {
			return fmt.Sprintf("%.0f µs CPU; no resumption", v[0])
		}
		return fmt.Sprintf("%.0f µs CPU; %.0f µs CPU", v[0], v[1])
	})
	if err != nil {
		return err
	}
	label := "mutual TLS handshakes alone, per second of one core"
	if reference, err := b.reference(ctx); err == nil {
		label += fmt.Sprintf(" (openssl s_server: %s)", perSecond(reference))
	} else {
		fmt.Fprintln(os.Stderr, "bench: no handshakes of openssl:", err)
	}
	return b.figures(ctx, label, func(p *process) ([]float64, error) {
		cpu, err := p.shakes(ctx, b.span, b.certs.transport("mqtts", nil))
		return []float64{float64(cpu)}, err
	}, func(v []float64) string { return perSecond(time.Duration(v[0])) })
}

// perSecond returns how often a second has a time in it.
func perSecond(each time.Duration) string {
	return thousands(int64(time.Second / max(each, 1)))
}

// shakes returns the CPU time of one handshake of a server, of as many as fit into the span. Nothing
// is said after it.
func (p *process) shakes(ctx context.Context, span time.Duration, by transport) (time.Duration, error) {
	r, err := p.meter(func() (n int64, err error) {
		for began := time.Now(); time.Since(began) < span; n++ {
			nc, err := p.open(ctx, by)
			if err != nil {
				return n, err
			}
			if err := nc.Close(); err != nil {
				return n, err
			}
		}
		return n, nil
	})
	return r.cpu, err
}

// reference returns the CPU time of a handshake of openssl, with the certificates of the brokers.
func (b *bench) reference(ctx context.Context) (time.Duration, error) {
	path, err := exec.LookPath("openssl")
	if err != nil {
		return 0, err
	}
	address, err := freeAddress()
	if err != nil {
		return 0, err
	}
	p := &process{at: map[string]string{"mqtts": address}}
	p.cmd = exec.Command(path, "s_server", "-accept", address, "-cert", b.certs.server.Cert, "-key", b.certs.server.Key,
		"-CAfile", b.certs.authority.Cert, "-Verify", "1", "-www", "-quiet")
	if err := startOnBrokerCore(p.cmd); err != nil {
		return 0, err
	}
	defer p.stop()
	if err := p.opened(ctx); err != nil {
		return 0, err
	}
	var all []float64
	for range b.repeat {
		cpu, err := p.shakes(ctx, b.span, b.certs.transport("mqtts", nil))
		if err != nil {
			return 0, err
		}
		all = append(all, float64(cpu))
	}
	return time.Duration(median(all)), nil
}

// errNotResumed says that a broker takes no ticket.
var errNotResumed = errors.New("the TLS session was not resumed")

// connects returns the broker's CPU time of one connect, of as many as fit into the span.
func connects(ctx context.Context, span time.Duration, p *process, by transport, resumed bool) (time.Duration, error) {
	connect := func() error {
		w, err := p.dial(ctx, by, "visitor", 4096)
		if err != nil {
			return err
		}
		defer w.nc.Close()
		if w.nc.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState().DidResume != resumed {
			return errNotResumed
		}
		return nil
	}
	if err := connect(); err != nil && !errors.Is(err, errNotResumed) { // it gets the ticket
		if resumed && !errors.Is(err, net.ErrClosed) {
			return 0, errNotResumed
		}
		return 0, err
	}
	r, err := p.meter(func() (n int64, err error) {
		for began := time.Now(); time.Since(began) < span; n++ {
			if err := connect(); err != nil {
				if resumed { // there are brokers that refuse a ticket of their own
					return n, errors.Join(errNotResumed, err)
				}
				return n, err
			}
		}
		return n, nil
	})
	return r.cpu, err
}
