// Package broker is an MQTT broker for one site: sessions, routing, retained messages and wills,
// for network clients and for clients in the same process. What is durable it leaves to a Store,
// and no acknowledgement leaves before the store has said that what it promises is on disk.
//
// Locks are taken in this order: those of the registry, of the routes, of a session, of its peer.
// But for the two that say so, none is held during I/O, a callback or Submit.
package broker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"gateway/broker/auth"
	"gateway/broker/packet"
	"gateway/broker/session"
)

// Options are what a Server is made from.
type Options struct {
	Store  Store // required
	Limits Limits
	Log    *slog.Logger // required
	// Absent says why the store cannot be read yet, nil if it can. Until Adopt, QoS 1 and 2 are refused:
	// nobody knows who would have to get them.
	Absent error
	// Early lets messages at QoS 1 be sent to clients that are connected before they are durable. Their
	// publishers are acknowledged when they are durable, or their receivers have acknowledged them. It
	// is for a store that delays its commits.
	Early bool
	// Queues bound the queues of durable sessions, by client identifier. Of the others, those of the
	// network are bounded by Limits, and those of the gateway's own clients by the store alone.
	Queues map[string]*session.Room
	// ShareBySender gives all messages of one publisher that come by a shared subscription to the same of the
	// members that are connected. Otherwise they get them in turn.
	ShareBySender bool
	// Version is what $SYS/broker/version tells.
	Version string
	// UseAnother, if it is not empty, is the server that network clients are sent to: this one lets
	// none of them in (5.0, 4.11).
	UseAnother string
	// Door turns away who is not wanted; nil: nobody.
	Door Door
	// Recall returns the client that a stored session belongs to and what it may do now, a nil Authorizer
	// everything. It is asked about the will of one that has not been back since the start; an error keeps
	// the will from being published. It is called from goroutines of their own. Nil: such wills are
	// published.
	Recall func(*session.Owner) (*auth.Client, auth.Authorizer, error)
	// Commands are the topics of messages that move something, see auth.Request.
	Commands []string
	// Now is the time of day by which logins expire; nil: time.Now. It may jump.
	Now func() time.Time
}

// A Server is a broker.
type Server struct {
	store   Store
	limits  Limits
	log     *slog.Logger
	version string
	another string           // see Options.UseAnother
	now     func() time.Time // see Options.Now
	began   time.Time
	stats   Stats
	denials denials
	early   bool        // see Options.Early
	absent  atomic.Bool // see Options.Absent
	queues  queueBounds
	losses  losses

	registry registry
	routes   routes

	gate      gate
	pace      *rate.Limiter // of connections
	farewells chan struct{} // one for each at a time
	turnstile *turnstile
	aside     *turnstile // of the store, which does not wait for readers
	memory    memory

	door     Door
	commands map[string]bool // see Options.Commands; never changed
	recall   func(*session.Owner) (*auth.Client, auth.Authorizer, error)

	refusals, unretained, unsubscribed notice
	knocks, unauthorized, unconnected  notice
	hasty, contested                   notice

	// retaining orders the retained messages in memory as the store and their subscribers get them.
	// It is held across Submit and while a round ends, which is the reason why it guards nothing else.
	retaining sync.Mutex

	ctx      context.Context // ends at Close
	stop     context.CancelFunc
	starting sync.Mutex // no goroutine is started after stop
	work     sync.WaitGroup
}

// New returns a server that goes on where the store's last one ended: sessions with their
// queues, subscriptions and wills, and retained messages. Every connection of before has ended.
func New(o Options) (*Server, error) {
	s := &Server{
		store:   o.Store,
		limits:  o.Limits.withDefaults(),
		log:     o.Log,
		version: o.Version,
		another: o.UseAnother,
		early:   o.Early,
		began:   time.Now(),
		now:     o.Now,
		door:    o.Door,

		commands: make(map[string]bool),
		recall:   o.Recall,
	}
	for _, t := range o.Commands {
		s.commands[t] = true
	}
	s.routes.bySender = o.ShareBySender
	s.denials.news = make(signal, 1)
	s.farewells = make(chan struct{}, farewells)
	s.queues = queueBounds{named: o.Queues, others: &session.Room{Quota: s.limits.Stored}}
	s.losses = losses{stats: &s.stats, log: o.Log}
	if s.door == nil {
		s.door = open{}
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.unauthorized.more, s.unconnected.more = 30, 30
	s.gate = newGate(&s.limits)
	s.memory.srv = s
	s.pace = rate.NewLimiter(rate.Limit(s.limits.ConnectRate), s.limits.ConnectRate)
	s.registry = registry{srv: s, sessions: make(map[string]*Session)}
	var err error
	if s.turnstile, err = newTurnstile(&s.stats.Turns); err != nil {
		return nil, err
	}
	if s.aside, err = newTurnstile(new(atomic.Int64)); err != nil {
		return nil, errors.Join(err, s.turnstile.close())
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	context.AfterFunc(s.ctx, func() { _, _ = s.turnstile.close(), s.aside.close() })
	if s.absent.Store(o.Absent != nil); o.Absent == nil {
		if err := s.Adopt(); err != nil {
			s.stop()
			return nil, err
		}
	}
	r := &reporter{srv: s, last: make(map[string]string)}
	r.report()
	s.start(r.run)
	s.memory.watch()
	if y, ok := o.Store.(yielding); ok {
		y.GiveWay(s.aside.pass)
	}
	return s, nil
}

// start runs f in a goroutine that Close waits for. It reports false when the server is closing.
func (s *Server) start(f func()) bool {
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.work.Go(f)
	return true
}

// Serve accepts connections until the listener fails or the server is closed, and then returns
// nil. An error of one connection ends no other.
func (s *Server) Serve(ln net.Listener, l Listener) error {
	l.Bounds = l.Bounds.within(&s.limits)
	release := context.AfterFunc(s.ctx, func() { _ = ln.Close() })
	defer release()
	for delay := time.Duration(0); ; {
		s.gate.room(s.ctx, l.Name)
		nc, err := ln.Accept()
		switch {
		case err == nil:
			delay = 0
			// Who is turned away here takes no place from others.
			if !knock(s, addressOf(nc), l.Name) || s.pace.Wait(s.ctx) != nil {
				_ = nc.Close()
				continue
			}
			s.turnstile.pass()
			s.accept(nc, &l)
			continue
		case s.ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		}
		// Out of file descriptors, or a connection that ended at once: others may do better.
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		s.log.Warn("cannot accept a connection", "listener", l.Name, "error", err, "again_in", delay)
		select {
		case <-time.After(delay):
		case <-s.ctx.Done():
		}
	}
}

// accept starts the reader of a connection, unless there are too many.
func (s *Server) accept(nc net.Conn, l *Listener) {
	s.stats.Sockets.Add(1)
	c := newConn(s, nc, l)
	err := s.gate.enter(c, func() bool { return s.start(c.run) })
	if err == nil {
		return
	}
	if !farewell(s, nc, err) {
		_ = nc.Close()
	}
	if s.ctx.Err() == nil {
		s.stats.Refused.Add(1)
		s.stats.Limits.count(err)
		if untold, due := s.refusals.due(); due {
			s.log.Warn("connection refused", "listener", l.Name, "from", nc.RemoteAddr(), "reason", err, "others_before", untold,
				"remedy", "find out who connects so often, or raise the limit")
		}
	}
}

// Close ends all connections with reason code 0x8B (Server shutting down) and waits until they
// are gone. Sessions stay in the store; wills of clients that were connected are published when
// a server goes on with it (5.0, 3.1.2.5). The store is not closed.
func (s *Server) Close() error {
	peers := s.registry.close()
	s.starting.Lock()
	s.stop()
	s.starting.Unlock()
	for _, p := range peers {
		p.kick(packet.ServerShuttingDown)
	}
	for _, c := range s.gate.inside() {
		c.link.kick(packet.ServerShuttingDown)
	}
	s.work.Wait()
	return nil
}
