package config

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"gateway/broker/auth/template"
)

// HTTPAuth is section "auth.http_auth": the HTTP service that listeners with auth: [http] ask, with the
// keys of NanoMQ.
type HTTPAuth struct {
	Auth           HTTPRequest   `yaml:"auth_req"`                                         // whether a client may come in
	Super          *HTTPRequest  `yaml:"super_req"`                                        // whether it may do everything; nil: not asked
	ACL            *HTTPRequest  `yaml:"acl_req"`                                          // whether it may publish or subscribe; nil: not asked
	Timeout        time.Duration `yaml:"timeout" default:"5s" range:"10ms..1m"`            // of one answer, with the wait for a connection
	ConnectTimeout time.Duration `yaml:"connect_timeout" default:"5s" range:"10ms..1m"`    // to the end of the TLS handshake
	PoolSize       int           `yaml:"pool_size" default:"32" range:"1..1024"`           // requests at a time
	CacheTTL       time.Duration `yaml:"cache_ttl" default:"10s" range:"0s..24h"`          // how long what was allowed is not asked again; 0s: it is
	RefusedTTL     time.Duration `yaml:"refused_ttl" default:"5s" range:"0s..24h"`         // how long what was refused is not
	CacheSize      int           `yaml:"cache_size" default:"4096" range:"1..100000"`      // answers
	OnError        string        `yaml:"on_error" default:"deny" words:"deny cached next"` // when the service cannot be asked
	Grace          time.Duration `yaml:"grace" default:"72h" range:"1m..365d"`             // with cached: for how long since the service accepted it
	SignKey        Secret        `yaml:"sign_key"`                                         // requests are signed with it; empty: they are not
	TLS            BridgeTLS     `yaml:"tls"`                                              // with https:// only
}

// An HTTPRequest is one question to the HTTP service. Its parameters may have the placeholders of
// NanoMQ and of EMQX.
type HTTPRequest struct {
	URL     string            `yaml:"url,required"`
	Method  string            `yaml:"method" default:"POST" words:"POST PUT GET post put get"` // with GET the parameters are the query, else the body
	Headers map[string]string `yaml:"headers"`
	Params  map[string]string `yaml:"params,text"`
}

// checkHTTPAuth checks the HTTP service.
func checkHTTPAuth(k network, c *Config) {
	h := c.Auth.HTTP
	asked := slices.ContainsFunc(c.Listeners, func(l Listener) bool { return slices.Contains(l.Auth, "http") })
	if h == nil {
		return
	}
	if !asked {
		k.warn("auth.http_auth", "no listener asks this service; give one of them auth: [http]")
	}
	k.want(k.given("auth.http_auth.auth_req"), "auth.http_auth.auth_req", "missing; add it, with the url that tells who may come in")
	checkRequest(k, &h.Auth, "auth.http_auth.auth_req", false)
	if h.Super != nil {
		checkRequest(k, h.Super, "auth.http_auth.super_req", false)
	}
	if h.ACL != nil {
		checkRequest(k, h.ACL, "auth.http_auth.acl_req", true)
	}
	k.want(h.OnError == "cached" || !k.given("auth.http_auth.grace"), "auth.http_auth.grace", "only with on_error: cached; add it, or remove this")
	k.want((h.TLS.Cert == "") == (h.TLS.Key == ""), "auth.http_auth.tls", "cert and key come together; give both or none")
	k.want(strings.HasPrefix(h.Auth.URL, "https:") || !k.given("auth.http_auth.tls"), "auth.http_auth.tls", "only with https:// URLs")
}

// checkRequest checks one question. Only that about publishing and subscribing knows of a topic.
func checkRequest(k network, r *HTTPRequest, at string, acl bool) {
	u, err := url.Parse(r.URL)
	if r.URL != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil) {
		k.want(false, at+".url", "http://host:port/path or https://host:port/path, without a user, not %s", quoteShort(redact(r.URL)))
	} else if r.URL != "" && u.Scheme == "http" && !loopback(u.Hostname()) && !acl {
		k.warn(at+".url", "passwords cross the network in the clear with http://; use https://")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		value, key := r.Headers[name], join(at+".headers", name)
		k.want(headerName(name) && !strings.ContainsAny(value, "\r\n\x00"), key, "this cannot be a header")
		if strings.EqualFold(name, "content-type") {
			kind, _, _ := strings.Cut(value, ";")
			known := strings.EqualFold(strings.TrimSpace(kind), "application/json") || strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded")
			k.want(known, key, "application/json or application/x-www-form-urlencoded, not %s", quoteShort(value))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Params)) {
		key := join(at+".params", name)
		t, err := template.Parse(r.Params[name])
		if err != nil {
			k.want(false, key, "%v", err)
			continue
		}
		topical := slices.ContainsFunc(t.Uses(), func(i template.Input) bool { return i >= template.Topic })
		if topical && !acl {
			k.warn(key, "%s is empty here: it is known only when a client publishes or subscribes", quoteShort(r.Params[name]))
		}
		if acl && slices.Contains(t.Uses(), template.Password) {
			k.warn(key, "the password is empty here: it is not kept after the login")
		}
	}
}

// headerName reports whether s can be the name of a header (RFC 9110, section 5.6.2).
func headerName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}
