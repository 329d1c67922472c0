package bridge

import (
	"sync"
	"sync/atomic"
	"time"

	"gateway/broker/packet"
)

// A guest is a message of the cloud on its way to the local broker.
type guest struct {
	p       packet.Publish
	remote  string // the topic that the cloud gave it
	receipt *receipt
}

// A caution remembers that the local broker has refused a message of the cloud for the time being: the
// queue of a client that is away is full, or the store is. It outlives connections.
type caution struct {
	held atomic.Int64  // messages that wait in the hall
	calm time.Duration // how long nothing has to be refused until it ends, if longer than calm

	mu    sync.Mutex
	until time.Time
}

// calm is how long nothing has to be refused, at least, until messages are handed on again without waiting for
// those before them. It has to outlast the wait for the next connection.
const calm = time.Minute

func (c *caution) refused() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = time.Now().Add(max(calm, c.calm))
}

func (c *caution) wanted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.until)
}

// A hall is where messages of the cloud wait while the local broker refuses one: one is handed on after
// the other, and again and again until it is taken. They are not acknowledged meanwhile, so that they
// are the cloud's, and stay in order; what goes up to the cloud goes on.
//
// While nothing is refused there is nobody in the hall.
type hall struct {
	mu      sync.Mutex
	waiting []guest       // the first one is being handed on
	closed  bool          // nobody is handed on any more
	come    chan struct{} // one slot: full when somebody has come
}

// enter reports whether a message has to wait, and keeps it then. The receipts bound how many do.
func (h *hall) enter(g guest, c *caution) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return true // the cloud has it, and sends it again
	}
	if len(h.waiting) == 0 && !c.wanted() {
		return false
	}
	h.waiting = append(h.waiting, g)
	c.held.Store(int64(len(h.waiting)))
	select {
	case h.come <- struct{}{}:
	default:
	}
	return true
}

// retryPause is between two attempts to hand a message on.
const retryPause = time.Second

// usher hands on whoever waits in the hall, until the connection ends.
func (in *intake) usher() {
	h := &in.hall
	defer h.close(in.caution)
	for {
		select {
		case <-h.come:
		case <-in.life.Done():
			return
		}
		for g, ok := h.first(); ok; g, ok = h.first() {
			if !in.persist(g) {
				return
			}
			h.leave(in.caution)
		}
	}
}

// first returns who is next.
func (h *hall) first() (guest, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.waiting) == 0 {
		return guest{}, false
	}
	return h.waiting[0], true
}

func (h *hall) leave(c *caution) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting[0] = guest{}
	if h.waiting = h.waiting[1:]; len(h.waiting) == 0 {
		h.waiting = nil
	}
	c.held.Store(int64(len(h.waiting)))
}

// close ends the waiting: the cloud has what is left.
func (h *hall) close(c *caution) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting, h.closed = nil, true
	c.held.Store(0)
}

// persist hands a message on until it is taken; false says that the connection has ended before.
func (in *intake) persist(g guest) bool {
	answer := make(chan packet.ReasonCode, 1)
	for told := false; ; {
		in.inbox.Publish(g.p, func(code packet.ReasonCode) { answer <- code })
		select {
		case code := <-answer:
			if !code.Failed() || forGood(code) {
				if told {
					in.drops.log.Info("the message that was refused is taken; messages from the cloud go on", "topic", g.remote)
				}
				in.taken(g, code)
				return true
			}
			in.caution.refused()
			if !told {
				told = true
				in.drops.log.Warn("the local broker cannot take a message now: it waits, as do those behind it; messages to the cloud go on",
					"topic", g.remote, "reason", code, "remedy", "let the client whose queue is full connect, raise its quota, or see the state of the store")
			}
		case <-in.life.Done():
			return false
		}
		select {
		case <-time.After(retryPause):
		case <-in.life.Done():
			return false
		}
	}
}
