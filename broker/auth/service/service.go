// Package service asks an HTTP service who a client is and what it may do: with the requests of
// NanoMQ, and the answers of NanoMQ or of EMQX 5.
//
// A service that is slow or away makes only those wait whom it has to decide about, and them not for long.
// Clients that it has accepted before can be let in without it for a while, through restarts.
package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"gateway/broker/auth"
	"gateway/broker/auth/template"
)

// By is what auth.Identity says of those whom the service lets in.
const By = "http"

// A Failure is what is done when the service cannot be asked.
type Failure byte

// What can be done then.
const (
	Deny   Failure = iota // the client should try again later
	Cached                // those who were accepted before are let in, see Options.Grace
	Next                  // the next of the chain decides
)

// Options are what a Service is made from.
type Options struct {
	Auth  Request  // whether a client may come in
	Super *Request // whether it may do everything; nil: not asked
	ACL   *Request // whether it may publish or subscribe; nil: not asked

	// Listeners has, by name, what the service can be told of the listener of a client.
	Listeners map[string]Listener

	TLS            *tls.Config   // for https; nil: the system's authorities, no certificate
	ConnectTimeout time.Duration // to the end of the TLS handshake; 0: 5 s
	Timeout        time.Duration // of one answer, with the wait for a connection; 0: 5 s
	Pool           int           // connections, and so requests at a time; 0: 32
	Sign           []byte        // key by which requests are signed; nil: they are not

	Keep      time.Duration // how long what was allowed is not asked again
	KeepNo    time.Duration // how long what was refused is not
	CacheSize int           // answers kept; 0: 4,096

	OnError   Failure
	Grace     time.Duration // with Cached: for how long since they were accepted
	GraceFile string        // with Cached: where that is kept
	// GraceReadOnly says that the file is another process's to write.
	GraceReadOnly bool

	Now func() time.Time // the time of day; nil: time.Now

	Log *slog.Logger // required
}

// A Listener is what the service can be told of one.
type Listener struct {
	Port  int    // 0: it has none
	Mount string // what stands before the topics of its clients
}

// A Service is an auth.Authenticator. Its Rules are an auth.Authorizer.
type Service struct {
	o                Options
	auth, super, acl *question // super and acl may be nil
	client           *http.Client
	cache            *cache
	grace            *grace        // nil without
	slots            chan struct{} // of size Options.Pool: requests under way, the others wait

	mu      sync.Mutex
	flights map[key]*flight
	closed  bool

	ctx  context.Context // ends at Close
	stop context.CancelFunc
	work sync.WaitGroup
}

// A flight is a question under way. Whoever wants to ask the same waits for it.
type flight struct {
	done   chan struct{}
	answer answer
	err    error
}

// New returns a Service. It does not ask anything yet.
func New(o Options) (*Service, error) {
	s := &Service{o: o, flights: make(map[key]*flight)}
	for _, q := range []struct {
		what string
		from *Request
		to   **question
	}{{"auth_req", &o.Auth, &s.auth}, {"super_req", o.Super, &s.super}, {"acl_req", o.ACL, &s.acl}} {
		if q.from == nil {
			continue
		}
		var key string
		var err error
		if *q.to, key, err = q.from.parse(q.what); err != nil {
			return nil, fmt.Errorf("%s.%s: %w", q.what, key, err)
		}
	}
	or(&s.o.ConnectTimeout, 5*time.Second)
	or(&s.o.Timeout, 5*time.Second)
	or(&s.o.Pool, 32)
	or(&s.o.CacheSize, 4096)
	if s.o.Now == nil {
		s.o.Now = time.Now
	}
	s.slots = make(chan struct{}, s.o.Pool)
	s.cache = newCache(s.o.CacheSize)
	s.client = &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: s.o.ConnectTimeout}).DialContext,
			TLSClientConfig:        o.TLS,
			TLSHandshakeTimeout:    s.o.ConnectTimeout,
			MaxIdleConns:           s.o.Pool,
			MaxIdleConnsPerHost:    s.o.Pool,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: maxHeader,
			DisableCompression:     true, // a small answer could become a large one
		},
		// What is meant for the service is not shown to others.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if o.OnError == Cached {
		var err error
		if s.grace, err = newGrace(o.GraceFile, o.Grace, s.o.Now); err != nil {
			o.Log.Error("it is not known which clients the HTTP service has accepted: while it is away, none is let in", "error", err)
		}
		if !o.GraceReadOnly {
			s.work.Go(s.keepSaving)
		}
	}
	return s, nil
}

func or[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Close ends what is under way, and keeps what is to be kept.
func (s *Service) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.work.Wait()
	s.client.CloseIdleConnections()
	if s.grace != nil && !s.o.GraceReadOnly {
		return s.grace.save(false)
	}
	return nil
}

// Purge forgets what the service has said about some clients: it is asked again, and while it is
// away they are not let in. The error is that this does not outlast a loss of power.
func (s *Service) Purge(p Purge) error {
	s.cache.purge(p.matches)
	if s.grace == nil {
		return nil
	}
	s.grace.purge(p.matches)
	return s.grace.save(false)
}

// keepSaving writes what the grace is made of, until the service is closed.
func (s *Service) keepSaving() {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	aged, told := time.Now(), false
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		away := s.auth.open() && time.Since(aged) > ageEvery
		if away {
			aged = time.Now()
		}
		err := s.grace.save(away)
		if err != nil && !told {
			s.o.Log.Error("it cannot be kept which clients the HTTP service accepts: after a restart without it they are not let in", "error", err)
		}
		told = err != nil
	}
}

// Authenticate asks the service about a client.
func (s *Service) Authenticate(ctx context.Context, a auth.Attempt) (auth.Identity, error) {
	v := s.attempt(&a)
	w := who{a.ClientID, a.Username}
	k := s.cache.key(v, s.auth, s.super)
	got, ok := s.cache.get(k)
	var err error
	if !ok {
		var back func()
		if ctx, back, err = aside(ctx, &a); err == nil {
			got, err = s.once(ctx, k, func(ctx context.Context) (answer, error) { return s.login(ctx, k, w, v) })
		}
		defer back()
	}
	if err != nil {
		return s.withoutService(ctx, &a, k, v, err)
	}
	switch {
	case got.result == ignore:
		return auth.Identity{}, fmt.Errorf("the HTTP service leaves it to others (%s): %w", got.why, auth.ErrUnknown)
	case got.result == deny:
		return auth.Identity{}, fmt.Errorf("the HTTP service refuses it (%s): %w", got.why, auth.ErrBadCredentials)
	}
	return s.identity(&a, got)
}

// errCrowded is why a client does not wait for the service.
var errCrowded = errors.New("as many clients wait for it as limits.handshakes allows")

// aside takes a place for a client that has to wait, so that it takes none of those who need not. If there
// is none, the context returned with the error is over: the client waits for nothing.
func aside(ctx context.Context, a *auth.Attempt) (_ context.Context, back func(), err error) {
	if a.Aside == nil {
		return ctx, func() {}, nil
	}
	back, ok := a.Aside()
	if ok {
		return ctx, back, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx, cancel, errCrowded
}

// identity is that of a client which the service lets in.
func (s *Service) identity(of *auth.Attempt, a answer) (auth.Identity, error) {
	if !a.expires.IsZero() && !s.o.Now().Before(a.expires) {
		return auth.Identity{}, fmt.Errorf("the HTTP service has let it in until %s only: %w", a.expires.UTC().Format(time.RFC3339), auth.ErrBadCredentials)
	}
	id := auth.Identity{User: of.Username, Super: a.super, Expires: a.expires, By: By}
	if len(a.rules) > 0 {
		id.Rules = rules{a.rules, s.o.Listeners[of.Listener].Mount}
	}
	return id, nil
}

// login asks who a client is, and whether it may do everything.
func (s *Service) login(ctx context.Context, k key, w who, v *template.Values) (answer, error) {
	got, err := s.ask(ctx, s.auth, v)
	if err != nil {
		return answer{}, err
	}
	if got.result == allow && s.super != nil && !got.super {
		super, err := s.ask(ctx, s.super, v)
		if err != nil {
			return answer{}, err
		}
		got.super = super.result == allow
	}
	if got.result == allow {
		s.cache.put(k, w.client, w.user, got, s.o.Keep)
	} else {
		s.cache.put(k, w.client, w.user, got, s.o.KeepNo)
	}
	if s.grace == nil {
		return got, nil
	}
	what := shown(v, s.auth, s.super)
	switch got.result {
	case allow:
		s.grace.accept(ctx, w, k, what, got)
	case deny:
		s.grace.refuse(ctx, w, k, what)
	}
	return got, nil
}

// withoutService decides about a client when there was no answer.
func (s *Service) withoutService(ctx context.Context, a *auth.Attempt, k key, v *template.Values, why error) (auth.Identity, error) {
	switch s.o.OnError {
	case Next:
		return auth.Identity{}, fmt.Errorf("the HTTP service does not answer (%w): %w", why, auth.ErrUnknown)
	case Cached:
		got, ok, wrong := s.grace.admit(ctx, who{a.ClientID, a.Username}, k, shown(v, s.auth, s.super))
		switch {
		case ok:
			return s.identity(a, got)
		case wrong: // the client is told what others are told, and the failure is counted
			return auth.Identity{}, fmt.Errorf("the HTTP service does not answer (%w), and has accepted something else before: %w, %w", why, auth.ErrUnavailable, auth.ErrBadCredentials)
		}
		return auth.Identity{}, fmt.Errorf("the HTTP service does not answer (%w), and has not accepted this before: %w", why, auth.ErrUnavailable)
	}
	return auth.Identity{}, fmt.Errorf("the HTTP service does not answer (%w): %w", why, auth.ErrUnavailable)
}

// once runs f, unless it runs already for the same key, and waits for its answer. It goes on when
// ctx ends, for those who still wait.
func (s *Service) once(ctx context.Context, k key, f func(context.Context) (answer, error)) (answer, error) {
	s.mu.Lock()
	fl, ok := s.flights[k]
	if !ok {
		if s.closed {
			s.mu.Unlock()
			return answer{}, net.ErrClosed
		}
		fl = &flight{done: make(chan struct{})}
		s.flights[k] = fl
		s.work.Go(func() {
			ctx, cancel := context.WithTimeout(s.ctx, s.o.Timeout)
			defer cancel()
			fl.answer, fl.err = f(ctx)
			s.mu.Lock()
			delete(s.flights, k)
			s.mu.Unlock()
			close(fl.done)
		})
	}
	s.mu.Unlock()
	select {
	case <-fl.done:
		return fl.answer, fl.err
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

// errPaused is why a service that does not work is not asked.
var errPaused = errors.New("it has failed several times, and is not asked for some seconds")

// ask asks the service, when there is a place for one more request.
func (s *Service) ask(ctx context.Context, q *question, v *template.Values) (answer, error) {
	if !q.enter() {
		return answer{}, errPaused
	}
	var got answer
	var err error
	select {
	case s.slots <- struct{}{}:
		got, err = q.ask(ctx, s.client, v, s.o.Sign)
		<-s.slots
	case <-ctx.Done():
		err = fmt.Errorf("%d requests are under way already: %w", s.o.Pool, ctx.Err())
	}
	if s.ctx.Err() != nil {
		return answer{}, net.ErrClosed
	}
	works := err == nil || errors.Is(err, errOnlyThis)
	if changed := q.result(works); changed && !works {
		s.o.Log.Warn("the HTTP service does not work: it is asked now and then only", "request", q.what, "error", err)
	} else if changed {
		s.o.Log.Info("the HTTP service works again", "request", q.what)
	}
	return got, err
}

// attempt returns what there is to tell of a client that wants to come in.
func (s *Service) attempt(a *auth.Attempt) *template.Values {
	v := &template.Values{template.Username: a.Username, template.ClientID: a.ClientID, template.Password: string(a.Password), template.Protocol: "MQTT"}
	if tcp, ok := a.Addr.(*net.TCPAddr); ok {
		v[template.Address] = auth.Address(tcp.AddrPort().Addr()).String()
	}
	if c := a.Certificate; c != nil {
		v[template.CommonName], v[template.Subject] = c.Subject.CommonName, c.Subject.String()
	}
	s.place(v, a.Listener)
	return v
}

// place adds what there is to tell of the listener.
func (s *Service) place(v *template.Values, listener string) {
	l := s.o.Listeners[listener]
	if l.Port != 0 {
		v[template.Port] = strconv.Itoa(l.Port)
	}
	v[template.Mountpoint] = l.Mount
}
