package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"

	"gateway/board/clock"
	"gateway/broker/auth"
	"gateway/broker/auth/service"
	"gateway/config"
)

// acceptedFile is where it is kept, in the data folder, whom the HTTP service has accepted.
const acceptedFile = "accepted.jsonl"

// newService returns the HTTP service of the configuration.
func newService(c *config.Config, clock *clock.Clock, log *slog.Logger) (*service.Service, error) {
	o, err := serviceOptions(c, clock, log)
	if err != nil {
		return nil, err
	}
	return service.New(o)
}

// serviceOptions returns what the configuration says of the HTTP service.
func serviceOptions(c *config.Config, clock *clock.Clock, log *slog.Logger) (o service.Options, err error) {
	h := c.Auth.HTTP
	o = service.Options{
		Auth: *httpRequest(&h.Auth), Super: httpRequest(h.Super), ACL: httpRequest(h.ACL),
		Listeners:      make(map[string]service.Listener),
		ConnectTimeout: h.ConnectTimeout, Timeout: h.Timeout, Pool: h.PoolSize,
		Keep: h.CacheTTL, KeepNo: h.RefusedTTL, CacheSize: h.CacheSize,
		OnError: map[string]service.Failure{"deny": service.Deny, "cached": service.Cached, "next": service.Next}[h.OnError],
		Grace:   h.Grace, GraceFile: filepath.Join(c.Gateway.Data, acceptedFile),
		Now: clock.Now,
		Log: log,
	}
	for _, l := range c.Listeners {
		_, port, _ := net.SplitHostPort(l.Address) // a Unix socket has none
		n, _ := strconv.Atoi(port)
		o.Listeners[l.Name] = service.Listener{Port: n, Mount: l.Prefix}
	}
	sign, err := h.SignKey.Reveal()
	if err != nil {
		return o, err
	}
	if sign != "" {
		o.Sign = []byte(sign)
	}
	if o.TLS, err = bridgeTLS(h.TLS, clock); err != nil {
		return o, err
	}
	if h.TLS.Cert != "" {
		// A renewed certificate is shown without a restart.
		o.TLS.Certificates = nil
		o.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(h.TLS.Cert, h.TLS.Key)
			return &pair, err
		}
	}
	return o, nil
}

func httpRequest(r *config.HTTPRequest) *service.Request {
	if r == nil {
		return nil
	}
	return &service.Request{URL: r.URL, Method: r.Method, Headers: r.Headers, Params: r.Params}
}

// noService stands for an HTTP service whose files cannot be used.
type noService struct{}

// Authenticate lets nobody in.
func (noService) Authenticate(context.Context, auth.Attempt) (auth.Identity, error) {
	return auth.Identity{}, auth.ErrUnavailable
}

// Authorize allows nothing.
func (noService) Authorize(context.Context, *auth.Client, auth.Request) auth.Verdict {
	return auth.Verdict{Rule: "the HTTP service cannot be asked", Unsure: true}
}

// askedFirst lets the HTTP service decide about what its own clients do, and the configuration about
// the rest: what neither allows is denied.
type askedFirst struct {
	service auth.Authorizer
	rest    auth.Authorizer // for the service's clients
	law     auth.Authorizer // for the others; nil: everything is allowed
}

// Authorize asks the service about publishing and subscribing.
func (a askedFirst) Authorize(ctx context.Context, c *auth.Client, r auth.Request) auth.Verdict {
	if c.By != service.By {
		return auth.Decide(ctx, c, a.law, r)
	}
	unsure := false
	if r.Action != auth.Receive {
		v := a.service.Authorize(ctx, c, r)
		if v.Allowed || v.Rule != "" {
			return v
		}
		unsure = v.Unsure
	}
	v := a.rest.Authorize(ctx, c, r)
	v.Unsure = !v.Allowed && unsure // the service might have allowed it
	return v
}

// Super reports whether the configuration says that a client may do everything.
func (a askedFirst) Super(c *auth.Client) bool { return auth.Super(c, a.law) || auth.Super(c, a.rest) }

// Filters reports whether the configuration has rules for what a client receives.
func (a askedFirst) Filters(c *auth.Client) bool {
	if c.By != service.By {
		return auth.Filters(c, a.law)
	}
	return auth.Filters(c, a.rest)
}
