package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// network checks the listeners and the bridges.
type network struct{ *checker }

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (k network) bridges(c *Config) {
	names, clients := make(map[string]string), make(map[string]string)
	for i, b := range c.Bridges {
		at := fmt.Sprintf("bridges[%d]", i)
		k.once(names, b.Name, at+".name")
		if p := nameProblem(b.Name); p != "" && b.Name != "" {
			k.want(false, at+".name", "%s", p)
		}
		k.upstream(b, at)
		first, double := clients[b.URL+" "+b.ClientID]
		k.want(!double || b.URL == "", at+".client_id", "%s connects to the same broker as %s on line %d with the same client_id: they would push each other off; change one",
			quoteShort(b.Name), first, k.line(first))
		clients[b.URL+" "+b.ClientID] = at
		k.want(!b.Announce || b.Version == "3.1.1", at+".announce", "with version: 3.1.1 only; 5.0 sends nothing back anyway")
		k.want(b.SessionExpiry%time.Second == 0, at+".session_expiry", "whole seconds, not %v", b.SessionExpiry)
		k.want(b.Backoff.Min <= b.Backoff.Max, at+".backoff", "min is longer than max")
		k.want(b.KeepAlive%time.Second == 0, at+".keep_alive", "whole seconds, not %v", b.KeepAlive)
		if p := topicProblem(b.StateTopic); p != "" {
			k.want(false, at+".state_topic", "%s", p)
		}
		k.queue(b.Queue, c, at+".queue")
		for j, r := range b.Rules {
			key := fmt.Sprintf("%s.rules[%d].queue", at, j)
			k.queue(r.Queue, c, key)
			k.want(r.Direction != "in" || !k.given(key), key, "only for what goes to the cloud; remove it")
		}
		k.rules(b, at)
	}
	k.loops(c)
}

// upstream checks the URL of a bridge and what belongs to it.
func (k network) upstream(b Bridge, at string) {
	k.want(b.Method == "" || b.Version == "5.0", at+".method", "with version: \"5.0\" only; set it, or remove the method")
	k.want(b.Method == "" || b.Username != "" && !b.Password.IsZero(), at+".method", "needs a username and a password")
	k.want(b.Password.IsZero() || b.Username != "", at+".password", "needs a username [MQTT-3.1.2-22]")
	k.want((b.TLS.Cert == "") == (b.TLS.Key == ""), at+".tls", "cert and key come together; give both or none")
	k.want(b.ProxyPassword.IsZero() || b.ProxyUsername != "", at+".proxy_password", "needs a proxy_username")
	k.want(b.ProxyUsername == "" || b.Proxy != "", at+".proxy_username", "needs a proxy")
	if b.Proxy != "" {
		k.remote(b.Proxy, at+".proxy", "http://host:port or socks5://host:port", "http", "socks5")
	}
	secure := 0
	if k.upstreamURL(b, b.URL, at, at+".url") {
		secure++
	}
	for i, u := range b.Fallback {
		if k.upstreamURL(b, u, at, fmt.Sprintf("%s.fallback[%d]", at, i)) {
			secure++
		}
	}
	k.want(secure > 0 || b.URL == "" || !k.given(at+".tls"), at+".tls", "only with an mqtts:// or wss:// URL")
}

// upstreamURL checks one URL of a bridge, and reports whether TLS is spoken there.
func (k network) upstreamURL(b Bridge, text, at, key string) (secure bool) {
	if text == "" {
		return false
	}
	u := k.remote(text, key, "mqtt://host:port, mqtts://host:port, ws://host:port/path or wss://host:port/path", "mqtt", "mqtts", "ws", "wss")
	if u == nil {
		return false
	}
	secure = u.Scheme == "mqtts" || u.Scheme == "wss"
	if !secure && !b.Password.IsZero() && b.Method == "" && !loopback(u.Hostname()) {
		k.warn(at+".password", "crosses the network in the clear with %s://; use %ss://", u.Scheme, u.Scheme)
	}
	return secure
}

// remote checks the URL of something that is connected to. It returns nil if that is no good.
func (k network) remote(text, key, want string, schemes ...string) *url.URL {
	u, err := url.Parse(text)
	path := u != nil && (strings.Trim(u.Path, "/") != "" || u.RawQuery != "") && !strings.HasPrefix(u.Scheme, "ws")
	if err != nil || !slices.Contains(schemes, u.Scheme) || u.Hostname() == "" || path {
		k.want(false, key, "%s, not %s", want, quoteShort(redact(text)))
		return nil
	}
	k.want(u.User == nil, key, "no user in the URL; give it as username and password")
	_, _, problem := splitAddress(net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "1883")))
	k.want(problem == "", key, "%s", problem)
	k.want(u.Port() != "0", key, "the port is a number from 1 to 65535")
	return u
}

// redact drops what may be a password from a URL that does not parse.
func redact(u string) string {
	if i := strings.LastIndexByte(u, '@'); i >= 0 {
		return "…" + u[i:]
	}
	return u
}
