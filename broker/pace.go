package broker

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// A pace slows a client down that publishes more than the limits allow: its connection is not
// read for a while, and TCP tells it so. Nothing is lost and nobody else waits.
type pace struct {
	messages, bytes *rate.Limiter // nil: any number
	slowed          *atomic.Int64
	asked           time.Time // when all that was asked for would be done at the rate of requests
}

func newPace(b *Bounds, slowed *atomic.Int64) pace {
	p := pace{slowed: slowed}
	if b.MessageRate > 0 {
		p.messages = rate.NewLimiter(rate.Limit(b.MessageRate), b.MessageRate)
	}
	if b.ByteRate > 0 {
		// A burst of a second, but at least one packet of the largest size.
		p.bytes = rate.NewLimiter(rate.Limit(b.ByteRate), max(b.ByteRate, b.PacketSize))
	}
	return p
}

// wait returns when a message of so many bytes is within the limits.
func (p *pace) wait(ctx context.Context, bytes int) error {
	if p.messages == nil && p.bytes == nil {
		return nil
	}
	if p.messages != nil {
		if p.messages.Tokens() < 1 {
			p.slowed.Add(1)
		}
		if err := p.messages.Wait(ctx); err != nil {
			return err
		}
	}
	if p.bytes != nil {
		return p.bytes.WaitN(ctx, bytes)
	}
	return nil
}

// ask takes n requests into account, and returns for how long the next packet of the client is to
// wait. What one packet asks for counts as a burst at most.
func (p *pace) ask(l *Limits, n int) time.Duration {
	burst := max(10*l.RequestRate, 2*l.Subscriptions)
	each := time.Second / time.Duration(l.RequestRate)
	now := time.Now()
	if p.asked.Before(now) {
		p.asked = now
	}
	p.asked = p.asked.Add(time.Duration(min(n, burst)) * each)
	return p.asked.Sub(now) - time.Duration(burst)*each
}

// request makes the client wait if it asks for more than the limits allow, unless its connection ends
// meanwhile.
func request(c *conn, n int) error {
	late := c.pace.ask(&c.srv.limits, n)
	if late <= 0 {
		return nil
	}
	c.pace.slowed.Add(1)
	if untold, due := c.srv.hasty.due(); due {
		c.srv.log.Warn("a client is slowed down: it asks for too much", "client", c.session.id, "limit", c.srv.limits.RequestRate, "others_before", untold,
			"remedy", "find out what it asks for, or raise limits.request_rate")
	}
	timer := time.NewTimer(late)
	defer timer.Stop()
	for less := lessened(&c.link.out); !ends(&c.link.out); {
		select {
		case <-timer.C:
			return nil
		case <-less:
		case <-c.srv.ctx.Done():
			return net.ErrClosed
		}
	}
	return net.ErrClosed
}
