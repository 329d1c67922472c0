package broker

import (
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gateway/broker/auth"
	"gateway/broker/packet"
	"gateway/broker/session"
)

// Never is the session expiry interval of a session that does not expire (5.0, 3.1.2.11.2).
const Never = 0xFFFFFFFF

// A Session is the server's side of one client, from its first CONNECT until it expires. Its
// lock comes after the server's; nothing that waits is done under it.
type Session struct {
	id      string
	srv     *Server
	number  uint64 // its incarnation in the store
	durable bool   // it is there
	// connected mirrors whether there is a peer, for those who choose among sessions.
	connected atomic.Bool
	// filter is what the client may do, if it may not receive all that it subscribes to.
	filter atomic.Pointer[access]

	// coming counts the messages that have been matched with it as a member of a group and are on their way
	// to the store, if it is durable.
	coming sync.WaitGroup

	mu       sync.Mutex
	access   *access        // of the last connection; nil before the first one of this process
	rights   rights         // of the client to what is in the queue
	owner    *session.Owner // as it was stored; nil: not known, or access knows better
	state    session.State
	peer     peer      // nil while the client is away
	ended    bool      // it is no longer in the server's table
	shares   bool      // there may be messages of shared subscriptions in its queue, if it is durable
	leaving  *leaving  // nil until it begins to end; written with the table locked, too
	dropping bool      // its queue was full when the last message came
	loading  bool      // messages are being read from the store
	storing  int       // PUBRECs on their way to the disk
	forgets  int       // how often its client has begun anew, see Client.Forget
	backlog  []waiting // retained messages at QoS 0, and what must not overtake them
	behind   int       // messages in backlog that are not retained ones
	subs     filters
	expiry   uint32       // seconds after the connection ends
	will     *packet.Will // nil when none is due
	stopgap  bool         // its client has asked for one that is stored, which the store refused
	unread   bool         // the last read from the store failed
	rereads  bool         // it will be tried again soon
	holds    []uint64     // what Hold has returned and was not released
	early    []uint64     // positions that are in the queue and not yet durable
	ahead    []ahead      // what may be sent early, in the order of positions, and is not in the queue yet
	stuckAt  uint64       // the oldest position when Hold was called last
	lowest   uint64       // of what it has returned since a read from the store began
	since    time.Time    // when the connection ended
	timer    *time.Timer  // to the delayed will, or to the end of the session
	lapse    time.Time    // before which nothing in the queue expires that is not on its way; zero: nothing ever
}

// newSession returns a session that is in no table yet.
func newSession(s *Server, id string, durable bool) *Session {
	return &Session{
		id: id, srv: s, durable: durable,
		state: session.State{Client: id, Durable: durable},
	}
}

// A peer is what a session delivers to: a network connection or a client in the process. Its
// methods do not wait, and are called with the session locked.
type peer interface {
	// offer delivers a QoS 0 message, if there is room.
	offer(r *routing, h *hit) bool
	// deliver sends the PUBLISH of an entry, in a round if there is one; false says that it is more
	// than the client takes, or not for it.
	deliver(e *session.Entry, expiry uint32, dup bool, r *round) bool
	// pubrel sends the PUBREL of an entry.
	pubrel(id uint16)
	// room reports whether deliver may be called; if not, the session's resume will be.
	room() bool
	// kick ends the connection: its session is somebody else's now. What it returns is closed when the
	// packet is done in the middle of which others were let through; nil: there is none.
	kick(reason packet.ReasonCode) (busy <-chan struct{})
}

// A subscription is what a session asked for with one filter.
type subscription struct {
	qos               packet.QoS
	noLocal           bool
	retainAsPublished bool
	id                uint32
}

func newSubscription(f packet.Subscription, id uint32) subscription {
	return subscription{qos: f.QoS, noLocal: f.NoLocal, retainAsPublished: f.RetainAsPublished, id: id}
}

// A waiting message is one at QoS 0 that has not been sent for want of room.
type waiting struct {
	m      *session.Message
	retain bool
	ids    []uint32
}

const (
	backlogLimit   = 1000      // messages that wait at QoS 0 behind retained ones
	readAhead      = 128       // messages of a durable queue that are read from the store at a time
	readAheadBytes = 512 << 10 // bytes beyond which new ones stay in the store only
)

// offer delivers a QoS 0 message if the client is there and has room for it.
func (s *Session) offer(r *routing, h *hit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.peer == nil, !s.access.receives(r.p.Topic, 0):
		return
	case len(s.backlog) > 0:
		if s.behind < backlogLimit && !s.srv.memory.scarce.Load() {
			s.behind++
			s.backlog = append(s.backlog, waiting{r.message(), h.retain, h.kept()})
			return
		}
	case s.peer.offer(r, h):
		return
	}
	s.srv.stats.Dropped.Add(1)
}

// full reports whether the queue of a session in memory has all that it may hold. A client is told of
// in the log once, when its messages begin to be dropped, and again only after there was room for a
// while.
func (s *Session) full() bool {
	l := &s.srv.limits
	s.mu.Lock()
	most, mostBytes := l.QueueMessages, s.srv.memory.allows(l.QueueBytes)
	beyond := func() bool { return s.state.Queue.Len() >= most || s.state.Queue.Bytes() >= mostBytes }
	full := beyond()
	if full {
		removeExpired(s, time.Now())
		full = beyond()
	}
	n := s.state.Queue.Len()
	begins := full && !s.dropping
	s.dropping = full || s.dropping && n > most/2
	s.mu.Unlock()
	if begins {
		s.srv.log.Warn("a client's queue is full: newer messages for it are dropped until it takes some", "client", s.id,
			"limit", l.QueueMessages, "remedy", "let the client connect, or raise limits.queue, limits.queue_size or limits.memory")
	}
	return full
}

// own reports whether a client identifier is of the gateway's own clients. The network cannot take
// one of these.
func own(id string) bool { return strings.HasPrefix(id, "$") && !strings.HasPrefix(id, mounted) }

// push queues a message for a session that lives in memory only. It reports false if that has ended.
func (s *Session) push(q session.Queued, r *round) bool {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return false
	}
	s.state.Queue.Push(q)
	awaits(s, q.Message)
	changes := s.pump(r)
	s.mu.Unlock()
	s.srv.later(changes)
	return true
}

// committed takes a message that the store has put into the session's queue.
func (s *Session) committed(q session.Queued) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		s.srv.stats.Dropped.Add(1)
		return
	}
	(*holder)(s).stored(q.Position)
	awaits(s, q.Message)
	if _, next, _ := s.state.Queue.Missing(); q.Position < next { // it was taken early
		changes := s.pump(nil) // what follows it may be read from the store now
		s.mu.Unlock()
		s.srv.later(changes)
		return
	}
	room := readAhead
	if s.peer == nil || s.state.Queue.Bytes() > readAheadBytes || q.Position >= (*holder)(s).barrier() {
		room = 0 // it stays in the store only
	}
	s.state.Queue.Committed(q, room)
	changes := s.pump(nil)
	s.mu.Unlock()
	s.srv.later(changes)
}

// resume sends on after the peer had no room.
func (s *Session) resume() {
	s.mu.Lock()
	changes := s.pump(nil)
	s.mu.Unlock()
	s.srv.later(changes)
}

// pump sends what the window and the peer have room for, in a round if there is one. The lock is
// held; the changes returned are to be submitted, lazily, when it is not.
func (s *Session) pump(r *round) (changes []session.Change) {
	if len(s.ahead) > 0 {
		(*holder)(s).advance()
	}
	if s.peer == nil {
		return nil
	}
	var now time.Time
	for len(s.backlog) > 0 && s.peer.room() {
		w := s.backlog[0]
		may, known := entitled(s, w.m.Publish.Topic, math.MaxUint64-1) // it has come in this connection
		if !known {
			return nil
		}
		s.backlog[0] = waiting{}
		s.backlog = s.backlog[1:]
		if now.IsZero() {
			now = time.Now()
		}
		expiry, expired := remaining(w.m, now)
		if expired {
			s.srv.stats.Expired.Add(1)
			continue
		}
		if !may {
			s.srv.denials.count[auth.Receive].Add(1)
			continue
		}
		p := outgoing(&w.m.Publish, expiry, nil, nil)
		s.peer.offer(&routing{p: &p, m: w.m, by: w.m.Publish.From}, &hit{s: s, retain: w.retain, ids: w.ids})
	}
	if len(s.backlog) == 0 {
		s.backlog, s.behind = nil, 0
	}
	for s.peer.room() {
		may, wait := mayNext(s)
		if wait {
			break
		}
		e, ok := s.state.Queue.Next()
		if !ok {
			break
		}
		if e.Stage == session.Accepted {
			s.peer.pubrel(session.PacketID(e.Position))
			continue
		}
		if now.IsZero() {
			now = time.Now()
		}
		expiry, expired := remaining(e.Message, now)
		again := s.state.Queue.Again(e)
		switch {
		case expired && !(again && e.QoS == 2): // what was sent at QoS 2 has to be completed [MQTT-4.3.3-7]
			s.srv.stats.Expired.Add(1)
		case !may:
		case s.peer.deliver(e, expiry, again, r):
			continue
		}
		if step := s.state.GiveUp(e); step.Durable != nil {
			changes = append(changes, step.Durable)
		}
	}
	if from, limit, ok := s.state.Queue.Missing(); ok && !s.loading && from < (*holder)(s).barrier() {
		s.loading, s.lowest = true, (*holder)(s).barrier()
		if !s.srv.start(func() { s.load(from, limit) }) {
			s.loading = false
		}
	}
	return changes
}

// load reads the next messages of the queue from the store.
func (s *Session) load(from, limit uint64) {
	found, err := s.srv.store.Read(s.id, from, readAhead)
	s.mu.Lock()
	s.loading = false
	if err != nil && !s.unread {
		s.srv.log.Error("cannot read a session's queue: it is tried again and again while its client is connected", "client", s.id, "error", err)
	}
	if s.unread = err != nil; s.unread && s.peer != nil && !s.rereads {
		s.rereads = true
		time.AfterFunc(readPause, func() { s.srv.start(func() { reread(s) }) })
	}
	var changes []session.Change
	if err == nil && !s.ended {
		if len(found) == readAhead {
			limit = found[len(found)-1].Position + 1
		}
		s.state.Queue.Fill(from, found, min(limit, s.lowest))
		changes = s.pump(nil)
	}
	s.mu.Unlock()
	s.srv.later(changes)
}

// readPause is how long a queue that cannot be read is left alone.
const readPause = time.Second

// reread tries again to read the queue of a session.
func reread(s *Session) {
	s.mu.Lock()
	s.rereads = false
	s.mu.Unlock()
	s.resume()
}

// acknowledge handles PUBACK, PUBREC and PUBCOMP of the session's client. reply is called with
// the answer, if there is one, when it may leave.
func (s *Session) acknowledge(p peer, a packet.Ack, reply func(packet.Ack, error)) error {
	var step session.Step
	var err error
	s.mu.Lock()
	if s.peer != p {
		s.mu.Unlock()
		return ErrClosed
	}
	switch a.Type {
	case packet.PUBACK:
		step, err = s.state.Puback(a)
	case packet.PUBREC:
		step, err = s.state.Pubrec(a)
	//crash:pubrec-read
	default:
		step, err = s.state.Pubcomp(a)
		//crash:pubcomp-read
	}
	var changes []session.Change
	if step.Wake {
		changes = s.pump(nil)
	}
	if step.Wait {
		s.storing++
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if !step.Wait && step.Durable != nil {
		changes = append(changes, step.Durable)
	}
	s.srv.later(changes)
	s.srv.answer(step, func(a packet.Ack, err error) {
		if step.Wait {
			s.mu.Lock()
			s.storing--
			if err != nil {
				s.state.Unaccept(a.ID)
			}
			s.mu.Unlock()
		}
		reply(a, err)
	})
	return nil
}

// done ends the delivery of a message, whatever its QoS.
func (s *Session) done(p peer, id uint16) {
	s.mu.Lock()
	e := s.state.Queue.Find(id)
	if s.peer != p || e == nil {
		s.mu.Unlock()
		return
	}
	step := s.state.GiveUp(e)
	changes := s.pump(nil)
	s.mu.Unlock()
	if step.Durable != nil {
		changes = append(changes, step.Durable)
	}
	s.srv.later(changes)
}

// release handles a PUBREL of the session's client.
func (s *Session) release(p peer, a packet.Ack, reply func(packet.Ack, error)) {
	s.mu.Lock()
	if s.peer != p {
		s.mu.Unlock()
		reply(a, ErrClosed)
		return
	}
	step := s.state.Pubrel(a)
	forgets := s.forgets
	//crash:pubrel-read
	s.mu.Unlock()
	s.srv.answer(step, func(a packet.Ack, err error) {
		var changes []session.Change
		s.mu.Lock()
		switch {
		case err != nil && step.Durable != nil && s.forgets == forgets:
			s.state.Inbox.Receive(a.ID)
		case err != nil && step.Durable != nil && !s.state.Inbox.Has(a.ID): // it is not to be asked for again
			changes = append(changes, step.Durable)
		case err == nil && step.Durable == nil && s.state.Inbox.Has(a.ID):
			err = errNotReleased
		}
		s.mu.Unlock()
		s.srv.later(changes)
		reply(a, err)
	})
}

// errNotReleased is why the repetition of a PUBREL fails whose first one could not be stored.
var errNotReleased = errors.New("the identifier could not be released")

// answer calls reply with the answer of a step, once what it promises is durable.
func (s *Server) answer(step session.Step, reply func(packet.Ack, error)) {
	if step.Reply.Type == 0 {
		return
	}
	if !step.Wait {
		reply(step.Reply, nil)
		return
	}
	var changes []session.Change
	if step.Durable != nil {
		changes = []session.Change{step.Durable}
	}
	//crash:before-step
	s.store.Submit(changes, false, func(err error) { reply(step.Reply, err) })
}

// later submits changes that no acknowledgement waits for.
func (s *Server) later(changes []session.Change) {
	if len(changes) > 0 {
		s.store.Submit(changes, true, nil)
	}
}
