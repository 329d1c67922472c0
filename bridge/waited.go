package bridge

import (
	"strconv"
	"sync"
	"time"

	"gateway/broker/packet"
)

// WaitedProperty is the name of the user property that the bridge adds to a message which may
// have waited in the cloud while the link was down: the longest time that it can have waited, in
// whole seconds. MQTT 3.1.1 does not tell the age of a message, and a command may not be carried
// out long after it was given.
const WaitedProperty = "gateway-waited"

const (
	// quiet ends the backlog: the cloud sends what it has kept at once, so when nothing came for so
	// long, the next message is a new one.
	quiet = time.Second
	// backlogTime is the longest that a backlog is taken to last, for clouds that are never quiet.
	backlogTime = 5 * time.Minute
	// forever stands for a wait whose beginning was before this process.
	forever = 10 * 365 * 24 * time.Hour
)

// A backlog tells for how long the messages of one connection may have waited in the cloud.
type backlog struct {
	wait  time.Duration // at the beginning of the connection; 0: no longer
	began time.Time
	last  time.Time // when the last message came
}

// newBacklog returns the backlog of a connection that begins now: what the cloud has kept since it
// was last heard, in a session that it has kept.
func newBacklog(heard time.Time, sessionPresent bool, now time.Time) backlog {
	b := backlog{began: now, last: now}
	switch {
	case !sessionPresent:
	case heard.IsZero():
		b.wait = forever
	default:
		b.wait = now.Sub(heard)
	}
	return b
}

// mark adds the property to a message of the backlog.
func (b *backlog) mark(p *packet.Publish, now time.Time) {
	if now.Sub(b.last) >= quiet || now.Sub(b.began) >= backlogTime {
		b.wait = 0
	}
	b.last = now
	if b.wait < time.Second {
		return
	}
	waited := int64((b.wait + now.Sub(b.began)) / time.Second)
	var marked packet.PublishProperties
	if p.Properties != nil {
		marked = *p.Properties
	}
	marked.User = append(marked.User[:len(marked.User):len(marked.User)],
		packet.UserProperty{Name: WaitedProperty, Value: strconv.FormatInt(waited, 10)})
	p.Properties = &marked
}

// over reports whether the message that was marked last is one that has not waited.
func (b *backlog) over() bool { return b.wait < time.Second }

// A sign is when something was last heard of the cloud.
type sign struct {
	mu   sync.Mutex
	last time.Time
}

func (s *sign) heard(now time.Time) {
	s.mu.Lock()
	s.last = now
	s.mu.Unlock()
}

func (s *sign) at() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}
