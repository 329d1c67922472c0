package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"gateway/broker/packet"
)

// perClient is how many subscriptions one client has.
const perClient = 500

// unrelated returns a filter that matches nothing that is published here: plain ones, ones with
// wildcards at the front and in the middle, and deep ones.
func unrelated(i int) string {
	n := strconv.Itoa(i)
	switch i % 4 {
	case 0:
		return "plant/" + n + "/temperature"
	case 1:
		return "plant/+/line/" + n + "/#"
	case 2:
		return "+/line/" + n + "/state"
	default:
		return "company/region/plant/hall/line/" + n + "/cell/robot/axis/torque"
	}
}

// subscribed gives a broker unrelated subscriptions.
func (p *process) subscribed(ctx context.Context, n int) (c crowd, err error) {
	for first := 0; first < n; first += perClient {
		w, err := p.dial(ctx, transport{}, "many"+strconv.Itoa(first), 4096)
		if err != nil {
			c.leave()
			return nil, err
		}
		c = append(c, w)
		for i := first; i < min(first+perClient, n); i += 50 {
			var filters []string
			for j := i; j < min(i+50, n); j++ {
				filters = append(filters, unrelated(j))
			}
			if err := w.subscribe(0, filters...); err != nil {
				c.leave()
				return nil, err
			}
		}
	}
	return c, nil
}

// subscriptions measures what others' subscriptions cost: the time of a message that has nothing
// to do with them, and memory.
func subscriptions(ctx context.Context, b *bench) error {
	few, many := b.count(1000), b.count(100_000)
	label := fmt.Sprintf("QoS 0 with %s, then %s subscriptions of others; memory of each", thousands(int64(few)), thousands(int64(many)))
	return b.figures(ctx, label, func(p *process) ([]float64, error) {
		var values []float64
		var resident [2]int64
		for i, n := range []int{few, many} {
			c, err := p.subscribed(ctx, n)
			if err != nil {
				return nil, err
			}
			defer c.leave()
			time.Sleep(b.settled())
			if _, resident[i], err = memory(p.cmd.Process.Pid); err != nil {
				return nil, err
			}
			r, err := b.carry(ctx, p, flow{topic: "plant/7/line/8/state", publishers: 8, subscribers: 1, payload: small})
			if err != nil {
				return nil, err
			}
			values = append(values, microseconds(r.cpu))
			if i == 0 {
				c.leave()
			}
		}
		return append(values, float64(resident[1]-resident[0])/float64(many-few)), nil
	}, func(v []float64) string {
		return fmt.Sprintf("%.2f, %.2f µs CPU (%.2f ×); %.0f bytes", v[0], v[1], v[1]/v[0], v[2])
	})
}

// retained measures messages that are kept for who subscribes later.
func retained(ctx context.Context, b *bench) error {
	n := b.count(100_000)
	label := fmt.Sprintf("%s retained messages to a new subscriber; memory of each", thousands(int64(n)))
	return b.figures(ctx, label, func(p *process) ([]float64, error) {
		time.Sleep(b.quiet())
		_, before, err := memory(p.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		if err := p.retain(ctx, n); err != nil {
			return nil, err
		}
		time.Sleep(b.settled())
		_, after, err := memory(p.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		r, err := p.meter(func() (int64, error) { return int64(n), p.collect(ctx, n) })
		return []float64{r.perSecond, microseconds(r.cpu), float64(after-before) / float64(n)}, err
	}, func(v []float64) string {
		return fmt.Sprintf("%s/s, %.2f µs CPU; %.0f bytes", thousands(int64(v[0])), v[1], v[2])
	})
}

// retain leaves n retained messages, and returns when the broker has them all.
func (p *process) retain(ctx context.Context, n int) error {
	w, err := p.dial(ctx, transport{}, "keeper", 4096)
	if err != nil {
		return err
	}
	defer w.nc.Close()
	for first := 0; first < n; first += window {
		var buf []byte
		m := packet.Publish{QoS: 1, Retain: true, Payload: make([]byte, small)}
		last := min(first+window, n)
		for i := first; i < last; i++ {
			m.Topic, m.ID = "site/"+strconv.Itoa(i/100)+"/sensor/"+strconv.Itoa(i%100), uint16(i-first+1)
			buf = m.Append(buf, packet.V311)
		}
		if _, err := w.nc.Write(buf); err != nil {
			return err
		}
		for range last - first {
			if _, _, err := w.next(); err != nil { // PUBACK
				return err
			}
		}
	}
	return nil
}

// collect subscribes to everything and takes n messages.
func (p *process) collect(ctx context.Context, n int) error {
	w, err := p.dial(ctx, transport{}, "newcomer", readBuffer)
	if err != nil {
		return err
	}
	defer w.nc.Close()
	// SUBACK may come after the first of them (3.1.1, 3.8.4).
	s := packet.Subscribe{ID: 1, Filters: []packet.Subscription{{Filter: "#"}}}
	if _, err := w.nc.Write(s.Append(nil, packet.V311)); err != nil {
		return err
	}
	if err := w.nc.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	for got := 0; got < n; {
		first, _, err := w.next()
		if err != nil {
			return errors.Join(fmt.Errorf("%d of %d retained messages came", got, n), err)
		}
		if packet.Type(first>>4) == packet.PUBLISH {
			got++
		}
	}
	return nil
}
