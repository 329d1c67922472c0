// Package broker is an MQTT broker for one site: sessions, routing, retained messages and wills,
// for network clients and for clients in the same process. What is durable it leaves to a Store,
// and no acknowledgement leaves before the store has said that what it promises is on disk.
//
// Locks are taken in this order: Server.table, Server.routes, Session.mu, and the locks of peers.
// None is held during I/O, a callback or Submit.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/broker/topic"
)

// Options are what a Server is made from.
type Options struct {
	Store  Store // required
	Limits Limits
	Log    *slog.Logger // required
	// Version is what $SYS/broker/version tells.
	Version string
}

// A Server is a broker.
type Server struct {
	store   Store
	limits  Limits
	log     *slog.Logger
	version string
	began   time.Time
	stats   Stats

	// attaching orders what the store is told of sessions that begin and end. Like retaining it is
	// held across Submit, and guards nothing else. It comes before all other locks.
	attaching sync.Mutex

	table    sync.Mutex
	sessions map[string]*Session
	conns    map[*conn]struct{}
	closing  bool

	routes   sync.RWMutex
	subs     topic.Tree[*Session, subscription]
	retained topic.Names[*session.Message]

	// retaining orders the retained messages in memory as the store orders them. It is held across
	// Submit, which is the reason why it guards nothing else.
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
		store:    o.Store,
		limits:   o.Limits.withDefaults(),
		log:      o.Log,
		version:  o.Version,
		began:    time.Now(),
		sessions: make(map[string]*Session),
		conns:    make(map[*conn]struct{}),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if err := s.restore(); err != nil {
		s.stop()
		return nil, fmt.Errorf("restore sessions: %w", err)
	}
	s.start(s.publishStats)
	return s, nil
}

// restore replays the store's facts, then lets the time go on for sessions whose clients are
// away.
func (s *Server) restore() error {
	closed := make(map[*Session]time.Time)
	err := s.store.Restore(func(c session.Change) {
		switch c := c.(type) {
		case *session.Opened:
			n := s.newSession(c.Client, true)
			n.number, n.expiry, n.will = c.Incarnation, c.Expiry, c.Will
			s.sessions[c.Client] = n
		case *session.Closed:
			closed[s.sessions[c.Client]] = c.At
			s.sessions[c.Client].will = nil
		case *session.Subscribed:
			n := s.sessions[c.Client]
			s.subscribe(n, c.Subscription, c.ID)
		case *session.Summary:
			n := s.sessions[c.Client]
			n.state.Queue = session.RestoredQueue(c)
			n.state.Inbox = session.RestoredInbox(c)
		case *session.Retained:
			s.retained.Set(c.Message.Publish.Topic, c.Message)
		}
	})
	if err != nil {
		return err
	}
	// The clock of a board without battery may be years off: time away never counts twice, and
	// never before it was.
	now := time.Now()
	for _, n := range s.sessions {
		n.since = now
		if at, ok := closed[n]; ok && at.Before(now) {
			n.since = at
		}
		s.table.Lock()
		n.mu.Lock()
		will, changes := s.elapse(n)
		ended := n.ended
		n.mu.Unlock()
		s.table.Unlock()
		s.settle(n, will, changes, ended)
	}
	return nil
}

// newSession returns a session that is in no table yet.
func (s *Server) newSession(id string, durable bool) *Session {
	return &Session{
		id: id, srv: s, durable: durable,
		state: session.State{Client: id, Durable: durable},
		subs:  make(map[string]subscription),
	}
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
	release := context.AfterFunc(s.ctx, func() { _ = ln.Close() })
	defer release()
	for delay := time.Duration(0); ; {
		nc, err := ln.Accept()
		switch {
		case s.ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			// Out of file descriptors, or a connection that ended at once: others may do better.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log.Warn("cannot accept a connection", "listener", l.Name, "error", err, "again_in", delay)
			select {
			case <-time.After(delay):
			case <-s.ctx.Done():
			}
			continue
		}
		delay = 0
		s.accept(nc, l)
	}
}

// accept starts the reader of a connection, unless there are too many.
func (s *Server) accept(nc net.Conn, l Listener) {
	c := newConn(s, nc, l)
	s.table.Lock()
	full := len(s.conns) >= s.limits.Connections
	if !full && !s.closing && s.start(c.run) {
		s.conns[c] = struct{}{}
		nc = nil
	}
	s.table.Unlock()
	if nc == nil {
		return
	}
	_ = nc.Close()
	if full {
		s.stats.Refused.Add(1)
		s.log.Warn("connection refused: too many", "from", nc.RemoteAddr(), "limit", s.limits.Connections,
			"remedy", "raise limits.connections, or find out who connects so often")
	}
}

// Close ends all connections with reason code 0x8B (Server shutting down) and waits until they
// are gone. Sessions stay in the store; wills of clients that were connected are published when
// a server goes on with it (5.0, 3.1.2.5). The store is not closed.
func (s *Server) Close() error {
	s.table.Lock()
	s.closing = true
	var peers []peer
	for _, n := range s.sessions {
		n.mu.Lock()
		if n.peer != nil {
			peers = append(peers, n.peer)
		}
		if n.timer != nil {
			n.timer.Stop()
		}
		n.mu.Unlock()
	}
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.table.Unlock()
	s.starting.Lock()
	s.stop()
	s.starting.Unlock()
	for _, p := range peers {
		p.kick(packet.ServerShuttingDown)
	}
	for _, c := range conns {
		c.kick(packet.ServerShuttingDown)
	}
	s.work.Wait()
	return nil
}
