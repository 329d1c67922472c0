package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// A crowd are connections that do nothing.
type crowd []*wire

func (c crowd) leave() {
	for _, w := range c {
		_ = w.nc.Close()
	}
}

// crowd connects n clients with a subscription each.
func (p *process) crowd(ctx context.Context, n int, by transport) (c crowd, err error) {
	for i := range n {
		w, err := p.dial(ctx, by, "idle"+strconv.Itoa(i), 64)
		if err == nil {
			c = append(c, w)
			err = w.subscribe(0, "site/"+strconv.Itoa(i)+"/command")
		}
		if err != nil {
			c.leave()
			return nil, fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return c, nil
}

// crowded measures the memory that a connection holds while nothing happens.
func crowded(ctx context.Context, b *bench) error {
	for _, kind := range []struct {
		name string
		by   transport
		n    int
	}{
		{"TCP", transport{}, 5000},
		{"WebSocket", b.certs.transport("ws", nil), 200}, // one after the other, which takes mosquitto long
		{"mutual TLS", b.certs.transport("mqtts", nil), 5000},
	} {
		n := b.count(kind.n)
		label := fmt.Sprintf("memory per idle connection with a subscription, of %s through %s", thousands(int64(n)), kind.name)
		err := b.figures(ctx, label, func(p *process) ([]float64, error) {
			time.Sleep(b.quiet())
			before, _, err := memory(p.cmd.Process.Pid)
			if err != nil {
				return nil, err
			}
			c, err := p.crowd(ctx, n, kind.by)
			if err != nil {
				return nil, err
			}
			defer c.leave()
			time.Sleep(b.settled())
			after, _, err := memory(p.cmd.Process.Pid)
			return []float64{float64(after-before) / float64(n)}, err
		}, kilobytes)
		if err != nil {
			return err
		}
	}
	return nil
}

func kilobytes(v []float64) string { return fmt.Sprintf("%.1f KB", v[0]/1000) }

// idle measures what a broker uses while it has nothing to do.
func idle(ctx context.Context, b *bench) error {
	for _, clients := range []int{0, 100} {
		err := b.figures(ctx, fmt.Sprintf("idle with %d clients: resident memory, context switches", clients), func(p *process) ([]float64, error) {
			c, err := p.crowd(ctx, clients, transport{})
			if err != nil {
				return nil, err
			}
			defer c.leave()
			time.Sleep(b.quiet())
			before, err1 := switches(p.cmd.Process.Pid)
			began := time.Now()
			time.Sleep(4 * b.span)
			after, err2 := switches(p.cmd.Process.Pid)
			took := time.Since(began)
			rss, _, err3 := memory(p.cmd.Process.Pid)
			return []float64{float64(rss), float64(after-before) / took.Seconds()}, errors.Join(err1, err2, err3)
		}, func(v []float64) string { return fmt.Sprintf("%s, %.1f/s", megabytes(int64(v[0])), v[1]) })
		if err != nil {
			return err
		}
	}
	return nil
}

// handshakes measures mutual TLS connects: new ones, and those of clients that come back with a
// ticket.
func handshakes(ctx context.Context, b *bench) error {
	return b.figures(ctx, "connect by mutual TLS, per connection; coming back", func(p *process) ([]float64, error) {
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
