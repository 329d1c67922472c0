package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
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
	if b.URL == "" {
		return
	}
	u, err := url.Parse(b.URL)
	if err != nil || u.Scheme != "mqtt" && u.Scheme != "mqtts" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		k.want(false, at+".url", "mqtt://host:port or mqtts://host:port, not %s", quoteShort(redact(b.URL)))
		return
	}
	k.want(u.User == nil, at+".url", "no user in the URL; give it as username and password")
	_, _, problem := splitAddress(net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "1883")))
	k.want(problem == "", at+".url", "%s", problem)
	k.want(u.Port() != "0", at+".url", "the port is a number from 1 to 65535")
	if u.Scheme == "mqtts" {
		return
	}
	k.want(!k.given(at+".tls"), at+".tls", "only with an mqtts:// URL")
	if !b.Password.IsZero() && b.Method == "" && !loopback(u.Hostname()) {
		k.warn(at+".password", "crosses the network in the clear with mqtt://; use mqtts://")
	}
}

// redact drops what may be a password from a URL that does not parse.
func redact(u string) string {
	if i := strings.LastIndexByte(u, '@'); i >= 0 {
		return "…" + u[i:]
	}
	return u
}
