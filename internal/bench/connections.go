package main

import (
	"context"
	"errors"
	"fmt"
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

// crowded measures the memory that a connection holds while nothing happens. Pages of the program,
// which come and go, are not counted.
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
			_, before, err := memory(p.cmd.Process.Pid)
			if err != nil {
				return nil, err
			}
			c, err := p.crowd(ctx, n, kind.by)
			if err != nil {
				return nil, err
			}
			defer c.leave()
			time.Sleep(b.settled())
			_, after, err := memory(p.cmd.Process.Pid)
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
			time.Sleep(b.settled())
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
