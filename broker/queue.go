package broker

import (
	"context"
	"time"
)

// patience is for how long a listener without a place lets connections wait since it has let somebody in,
// or since the first of those came who have the places.
const patience = 2 * time.Second

// A queue is what is known of the connections of a listener that the kernel holds, because there is no place
// for them among those that have not been let in.
type queue struct {
	freed  signal    // of size 1: a place was left
	latest time.Time // somebody was let in, or came when all places were free
}

// queue returns that of a listener. The lock is held.
func (g *gate) queue(listener string) *queue {
	q, ok := g.queues[listener]
	if !ok {
		q = &queue{freed: make(signal, 1), latest: time.Now()}
		g.queues[listener] = q
	}
	return q
}

// room waits until a listener has a place for one more whose client is not known, as long as others are let in.
// Many that return at once wait in the kernel then, and get in one after the other, where they would have
// to come again. When nobody has been let in for a while, those who hold the places do not want to come
// in: there is no point in waiting for them, and who comes is turned away.
func (g *gate) room(ctx context.Context, listener string) {
	for {
		g.mu.Lock()
		q, full := g.queue(listener), g.strangers.on[listener] >= g.limits.Handshakes
		left := time.Until(q.latest.Add(patience))
		g.mu.Unlock()
		if !full || left <= 0 {
			return
		}
		select {
		case <-q.freed:
		case <-time.After(left):
		case <-ctx.Done():
			return
		}
	}
}

// part takes a connection from those whose clients are not known. The lock is held.
func (g *gate) part(c *conn) {
	g.strangers.add(c, -1)
	g.queue(c.listener.Name).freed.give()
}
