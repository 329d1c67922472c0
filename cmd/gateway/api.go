package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"gateway/broker/auth"
)

// apiTopics are the topics for administration by the paths of the HTTP interface.
var apiTopics = map[string]string{"/api/devices": devicesTopic, "/api/bans": bansTopic, "/api/cache": cacheTopic, "/api/dead": deadTopic}

// maxOrder is how many bytes an order may have.
const maxOrder = 4 << 10

// An api does over HTTP what a control does over MQTT, for whom the listener would let in and who
// may publish on the same topics: one order in JSON in the body of a POST, the answer in JSON.
type api struct {
	control  *control
	door     *door
	who      auth.Authenticator
	rules    auth.Authorizer // nil: everything is allowed
	listener string
	log      *slog.Logger

	mu     sync.Mutex
	told   time.Time // the last line about somebody who was turned away
	untold int       // how many were since then
}

// turnedAwayEvery is the time between two lines: strangers can be turned away as often as they like.
const turnedAwayEvery = 10 * time.Second

// turnedAway logs who may not do something, unless somebody was logged just now.
func (a *api) turnedAway(r *http.Request, user string, reason any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.told.IsZero() && time.Since(a.told) < turnedAwayEvery {
		a.untold++
		return
	}
	a.log.Warn("HTTP request not authorized", "listener", a.listener, "from", r.RemoteAddr, "user", user, "path", r.URL.Path, "reason", reason, "others_before", a.untold)
	a.told, a.untold = time.Now(), 0
}

// ServeHTTP answers a request.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	topic, known := apiTopics[r.URL.Path]
	// A page in a browser cannot send this type to another site without asking first.
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case !known:
		deny(w, http.StatusNotFound, "there are /api/devices, /api/bans, /api/cache and /api/dead")
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		deny(w, http.StatusMethodNotAllowed, "POST an order: a JSON object with a command")
		return
	case kind != "application/json":
		deny(w, http.StatusUnsupportedMediaType, "Content-Type: application/json")
		return
	case r.TLS == nil && !sameMachine(r.RemoteAddr):
		deny(w, http.StatusForbidden, "use https: passwords and secrets can be read on the way")
		return
	}
	client, status, why := a.identify(r)
	if client == nil {
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="gateway", charset="UTF-8"`)
		}
		user, _, _ := r.BasicAuth()
		a.turnedAway(r, user, why)
		deny(w, status, http.StatusText(status))
		return
	}
	if v := auth.Decide(r.Context(), client, a.rules, auth.Request{Action: auth.Publish, Topic: topic, QoS: 1}); !v.Allowed {
		a.turnedAway(r, client.User, v.Rule)
		deny(w, http.StatusForbidden, v.Rule)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxOrder))
	if err != nil {
		deny(w, http.StatusBadRequest, "the order: "+err.Error())
		return
	}
	answer := a.control.handle(r.Context(), topic, body)
	status = http.StatusOK
	if answer.Error != "" {
		status = http.StatusBadRequest
	}
	respond(w, status, answer)
}

// identify finds out who asks, by a client certificate or by user name and password (RFC 7617). A
// nil client comes with the status that says why.
func (a *api) identify(r *http.Request) (c *auth.Client, status int, why error) {
	attempt := auth.Attempt{Listener: a.listener}
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		attempt.Addr = net.TCPAddrFromAddrPort(at)
	}
	user, password, given := r.BasicAuth()
	attempt.Username, attempt.Password = user, []byte(password)
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		attempt.Certificate = r.TLS.PeerCertificates[0]
	} else if !given {
		return nil, http.StatusUnauthorized, errors.New("neither a user name nor a client certificate")
	}
	if err := a.door.Enter(&attempt); err != nil {
		return nil, statusOf(err), err
	}
	id, err := a.who.Authenticate(r.Context(), attempt)
	if err == nil {
		c = &auth.Client{Identity: id, Listener: a.listener, Addr: addressOf(r), Certificate: attempt.Certificate}
	}
	status = statusOf(err)
	if kept := a.door.Met(&attempt, c, status == http.StatusUnauthorized); kept != nil && err == nil {
		return nil, statusOf(kept), kept
	}
	return c, status, err
}

// statusOf returns the status that tells of a login that failed.
func statusOf(err error) int {
	switch {
	case errors.Is(err, auth.ErrBanned):
		return http.StatusForbidden
	case errors.Is(err, auth.ErrTooOften):
		return http.StatusTooManyRequests
	case errors.Is(err, auth.ErrUnavailable), errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable
	}
	return http.StatusUnauthorized
}

func addressOf(r *http.Request) netip.Addr {
	at, _ := netip.ParseAddrPort(r.RemoteAddr) // a Unix socket has none
	return auth.Address(at.Addr())
}

// sameMachine reports whether nobody else can read what is sent: the loopback, or a Unix socket.
func sameMachine(remote string) bool {
	at, err := netip.ParseAddrPort(remote)
	return err != nil || at.Addr().Unmap().IsLoopback()
}

// deny answers with an error.
func deny(w http.ResponseWriter, status int, text string) { respond(w, status, reply{Error: text}) }

func respond(w http.ResponseWriter, status int, r reply) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(r) // the client may be gone
}
