package bridge

import (
	"context"
	"sync"
	"time"

	"gateway/broker/packet"
)

// A delivery is one outgoing message that is not Done.
type delivery struct {
	lane  *lane
	stage stage
	qos   packet.QoS     // on the wire
	id    uint16         // on the wire
	p     packet.Publish // as the session has it
	at    time.Time
	fresh bool // it came while this connection was there
	frees bool // PUBREL has gone before PUBLISH
}

type stage byte

const (
	sent     stage = iota // PUBLISH has left
	storing               // PUBREC or a dead letter is being made durable
	released              // PUBREL may have left
	finished
)

// A flight is what is under way to the cloud on one connection.
type flight struct {
	lanes   []*lane
	window  int           // unacknowledged messages
	timeout time.Duration // for the acknowledgement of the oldest message
	end     context.CancelCauseFunc

	mu       sync.Mutex
	out      map[uint16]*delivery // by the identifier on the wire
	line     []*delivery          // in order of sending; finished ones leave when they are at the front
	limit    int                  // of len(out): the window, or less after a suspicious loss
	awaiting int                  // deliveries that wait for the cloud, not for the disk
	watch    *time.Timer          // ends the connection when the head of the line is not acknowledged
	acked    int64                // acknowledgements that came
	closed   bool                 // the connection has ended
}

// open divides the window among the lanes. most is what the cloud takes; 0: it does not say.
func (f *flight) open(most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if most > 0 {
		f.window = min(f.window, most)
		f.limit = min(f.limit, f.window)
	}
	for _, l := range f.lanes {
		l.share = f.window
		if l.history { // so that there is always room for fresh messages
			l.share = max(1, f.window/2)
		}
	}
}

// late ends the connection, unless the head of the line waits for the local disk.
func (f *flight) late() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.line) > 0 && f.line[0].stage == storing {
		f.watch.Reset(f.timeout)
		return
	}
	f.end(errSilent)
}

// unwatch stops watching, at the end of the connection.
func (f *flight) unwatch() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.watch.Stop()
}

// admit waits until one more message of a lane may be in flight, and notes it before its packet
// leaves.
func (f *flight) admit(ctx context.Context, d *delivery) error {
	for {
		f.mu.Lock()
		room := len(f.out) < f.limit && d.lane.inFlight < d.lane.share
		if room {
			f.begin(d)
		}
		f.mu.Unlock()
		if room {
			return nil
		}
		select {
		case <-d.lane.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// aside notes a message that is put aside instead of being sent, which takes no room.
func (f *flight) aside(d *delivery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d.stage = storing
	f.begin(d)
}

// buried ends the delivery of a message that is put aside.
func (f *flight) buried(d *delivery) {
	f.mu.Lock()
	f.advance(d, finished)
	f.mu.Unlock()
	d.lane.session.Done(d.p.ID)
}

// begin notes a delivery. f.mu is held.
func (f *flight) begin(d *delivery) {
	d.at = time.Now()
	f.out[d.id] = d
	f.line = append(f.line, d)
	d.lane.inFlight++
	if d.stage == storing {
		return
	}
	if f.awaiting++; f.awaiting == 1 {
		f.watch.Reset(f.timeout)
	}
}

// advance moves a delivery to a stage. Only what happens to the head of the line gives the cloud
// more time: one message that is never acknowledged must not stay so behind others that
// are. f.mu is held.
func (f *flight) advance(d *delivery, to stage) {
	if d.stage == sent || d.stage == released {
		f.awaiting-- // an acknowledgement has come
		f.acked++
	}
	if to == released {
		f.awaiting++
	}
	d.stage = to
	switch {
	case f.awaiting == 0 || f.closed:
		f.watch.Stop()
	case f.line[0] == d:
		f.watch.Reset(f.timeout)
	}
	if to != finished {
		return
	}
	delete(f.out, d.id)
	d.lane.inFlight--
	for len(f.line) > 0 && f.line[0].stage == finished {
		f.line = f.line[1:]
	}
	f.limit = min(2*f.limit, f.window)
	for _, l := range f.lanes {
		select {
		case l.room <- struct{}{}:
		default:
		}
	}
}

// useful reports whether the cloud has acknowledged anything on this connection.
func (f *flight) useful() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.acked > 0
}

// head returns the oldest message that waits for its first acknowledgement.
func (f *flight) head() (d delivery, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.line {
		if d.stage == sent {
			return *d, true
		}
	}
	return delivery{}, false
}
