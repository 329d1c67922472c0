package broker

import (
	"context"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// A pace slows a client down that publishes more than the limits allow: its connection is not
// read for a while, and TCP tells it so. Nothing is lost and nobody else waits.
type pace struct {
	messages, bytes *rate.Limiter // nil: any number
	slowed          *atomic.Int64
}

func newPace(l *Limits, slowed *atomic.Int64) pace {
	p := pace{slowed: slowed}
	if l.MessageRate > 0 {
		p.messages = rate.NewLimiter(rate.Limit(l.MessageRate), l.MessageRate)
	}
	if l.ByteRate > 0 {
		// A burst of a second, but at least one packet of the largest size.
		p.bytes = rate.NewLimiter(rate.Limit(l.ByteRate), max(l.ByteRate, l.PacketSize))
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
