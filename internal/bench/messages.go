package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

const topic = "bench/sensor/1"

// small is the payload of the rows that compare brokers at full speed, in bytes.
const small = 100

// durable measures messages for a client that is away, so that each has to be stored.
func durable(ctx context.Context, b *bench) error {
	for _, publishers := range []int{1, 8, 64} {
		label := fmt.Sprintf("durable QoS 1, %d publisher%s", publishers, plural(publishers))
		err := b.rates(ctx, label, func(p *process) (rate, error) {
			if err := sleeper(ctx, p); err != nil {
				return rate{}, err
			}
			return b.carry(ctx, p, flow{topic: topic, publishers: publishers, qos: 1, payload: b.payload})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sleeper leaves a session that wants everything.
func sleeper(ctx context.Context, p *process) error {
	c, err := client.Dial(ctx, "mqtt://"+p.at["mqtt"], client.Options{ClientID: "sleeper", KeepSession: true})
	if err != nil {
		return err
	}
	_, err = c.Subscribe(ctx, packet.Subscription{Filter: "bench/#", QoS: 1})
	return errors.Join(err, c.Disconnect(ctx))
}

// flows measures one row of flows.
func (b *bench) flows(ctx context.Context, label string, flows ...flow) error {
	return b.rates(ctx, label, func(p *process) (rate, error) { return b.carry(ctx, p, flows...) })
}

// oneToOne is the plainest row.
func oneToOne(ctx context.Context, b *bench) error {
	return b.flows(ctx, "QoS 0, one to one", flow{topic: topic, publishers: 1, subscribers: 1, payload: b.payload})
}

// atMostOnce measures QoS 0 at full speed.
func atMostOnce(ctx context.Context, b *bench) error {
	err := b.flows(ctx, "QoS 0, 8 publishers to 1 subscriber", flow{topic: topic, publishers: 8, subscribers: 1, payload: small})
	if err != nil {
		return err
	}
	var pairs []flow
	for i := range 8 {
		pairs = append(pairs, flow{topic: "bench/pair/" + strconv.Itoa(i), publishers: 1, subscribers: 1, payload: small})
	}
	return b.flows(ctx, "QoS 0, 8 publishers, each to a subscriber of its own", pairs...)
}

// fanOut measures QoS 0 for many subscribers. A message counts once for each.
func fanOut(ctx context.Context, b *bench) error {
	for _, n := range []int{8, 100} {
		label := fmt.Sprintf("QoS 0, 1 publisher to %d subscribers, per delivery", n)
		if err := b.flows(ctx, label, flow{topic: topic, publishers: 1, subscribers: n, payload: small}); err != nil {
			return err
		}
	}
	return nil
}

// acknowledged measures QoS 1 and 2 for subscribers that are connected and whose sessions need no disk.
func acknowledged(ctx context.Context, b *bench) error {
	for qos := packet.QoS(1); qos <= 2; qos++ {
		label := fmt.Sprintf("QoS %d, 8 publishers to 1 subscriber, nothing to store", qos)
		if err := b.flows(ctx, label, flow{topic: topic, publishers: 8, subscribers: 1, qos: qos, payload: small}); err != nil {
			return err
		}
	}
	return nil
}

// wrapped measures QoS 1 through what may be around MQTT.
func wrapped(ctx context.Context, b *bench) error {
	for _, kind := range []struct{ name, scheme string }{{"TLS", "mqtts"}, {"WebSocket", "ws"}, {"WebSocket in TLS", "wss"}} {
		f := flow{topic: topic, publishers: 8, subscribers: 1, qos: 1, payload: small, by: b.certs.transport(kind.scheme, nil)}
		if err := b.flows(ctx, "the same at QoS 1 through "+kind.name, f); err != nil {
			return err
		}
	}
	return nil
}

// A pair is a publisher and a subscriber of its own, who exchange one message at a time.
type pair struct {
	from, to *wire
	message  []byte
	took     []time.Duration // from the publisher to the subscriber
}

func (p *process) pair(ctx context.Context, n int) (*pair, error) {
	name := "bench/pair/" + strconv.Itoa(n)
	from, err := p.dial(ctx, transport{}, name+"from", readBuffer)
	if err != nil {
		return nil, err
	}
	to, err := p.dial(ctx, transport{}, name+"to", readBuffer)
	if err == nil {
		err = to.subscribe(1, name)
	}
	if err != nil {
		return nil, errors.Join(err, from.nc.Close())
	}
	m := packet.Publish{Topic: name, QoS: 1, ID: 1, Payload: make([]byte, small)}
	return &pair{from: from, to: to, message: m.Append(nil, packet.V311)}, nil
}

// run sends the next message when the last one has arrived and both sides are done with it.
func (p *pair) run(ctx context.Context) error {
	defer p.from.nc.Close()
	defer p.to.nc.Close()
	for ctx.Err() == nil {
		began := time.Now()
		if _, err := p.from.nc.Write(p.message); err != nil {
			return err
		}
		_, body, err := p.to.next()
		if err != nil {
			return err
		}
		p.took = append(p.took, time.Since(began))
		p.to.received(1, body, func() {})
		if _, err := p.to.nc.Write(p.to.out); err != nil {
			return err
		}
		p.to.out = p.to.out[:0]
		if _, _, err := p.from.next(); err != nil { // PUBACK
			return err
		}
	}
	return nil
}

// oneAtATime measures what a message costs when nothing can be done for many at once, and how
// long it takes.
func oneAtATime(ctx context.Context, b *bench) error {
	measure := func(p *process) ([]float64, error) {
		var pairs []*pair
		for i := range b.count(100) {
			pr, err := p.pair(ctx, i)
			if err != nil {
				return nil, err
			}
			pairs = append(pairs, pr)
		}
		var took []time.Duration
		r, err := p.meter(func() (int64, error) {
			err := exchange(ctx, b.span, pairs)
			for _, pr := range pairs {
				took = append(took, pr.took...)
			}
			return int64(len(took)), err
		})
		if err != nil {
			return nil, err
		}
		slices.Sort(took)
		return []float64{r.perSecond, microseconds(r.cpu), microseconds(took[len(took)*99/100]) / 1000}, nil
	}
	return b.figures(ctx, "QoS 1, 100 pairs, each one message at a time", measure, func(v []float64) string {
		return fmt.Sprintf("%s/s, %.1f µs CPU, 99 %% within %.1f ms", thousands(int64(v[0])), v[1], v[2])
	})
}

func exchange(ctx context.Context, span time.Duration, pairs []*pair) error {
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	var running sync.WaitGroup
	failed := make(chan error, len(pairs)) // one from each
	for _, p := range pairs {
		running.Go(func() { failed <- p.run(ctx) })
	}
	running.Wait()
	close(failed)
	var errs []error
	for err := range failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// steadyRate is how many messages per second a busy site has.
const steadyRate = 2000

// steady measures a load that leaves a broker time to sleep between messages.
func steady(ctx context.Context, b *bench) error {
	measure := func(p *process) ([]float64, error) {
		var readers sync.WaitGroup
		var wires []*wire
		defer func() {
			for _, w := range wires {
				_ = w.nc.Close()
			}
			readers.Wait()
		}()
		var delivered atomic.Int64
		for i := range 21 {
			w, err := p.dial(ctx, transport{}, "site"+strconv.Itoa(i), readBuffer)
			if err == nil && i == 0 {
				err = w.subscribe(1, topic)
			}
			if err != nil {
				return nil, err
			}
			wires = append(wires, w)
			readers.Go(func() { _ = w.take(func() { delivered.Add(1) }, func() {}) }) // what is missing shows in the end
		}
		r, err := p.meter(func() (int64, error) { return tickle(b.span, wires[1:], &delivered) })
		return []float64{microseconds(r.cpu), r.core}, err
	}
	label := fmt.Sprintf("QoS 1, %s messages/s from 20 publishers to 1 subscriber", thousands(steadyRate))
	return b.figures(ctx, label, measure, func(v []float64) string {
		return fmt.Sprintf("%.1f µs CPU, %.1f %% of a core", v[0], 100*v[1])
	})
}

// tickle sends at the steady rate for the span, and waits until all is delivered.
func tickle(span time.Duration, wires []*wire, delivered *atomic.Int64) (int64, error) {
	m := packet.Publish{Topic: topic, QoS: 1, Payload: make([]byte, small)}
	var buf []byte
	began, n := time.Now(), int64(0)
	for ; time.Since(began) < span; n++ {
		time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / steadyRate)))
		m.ID = uint16(n%60_000) + 1
		buf = m.Append(buf[:0], packet.V311)
		if _, err := wires[n%int64(len(wires))].nc.Write(buf); err != nil {
			return 0, err
		}
	}
	for late := time.Now().Add(drain); delivered.Load() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			return 0, fmt.Errorf("%d of %d messages have not come: %w", n-delivered.Load(), n, io.ErrNoProgress)
		}
	}
	return n, nil
}
