package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// network checks the listeners and the bridges.
type network struct{ *checker }

func (k network) listeners(c *Config) {
	names := make(map[string]string)
	type place struct{ host, port, key string }
	var taken []place
	for i, l := range c.Listeners {
		at := fmt.Sprintf("listeners[%d]", i)
		k.once(names, l.Name, at+".name")
		k.login(l, at)
		if l.Address == "" {
			continue
		}
		host, port, problem := splitAddress(l.Address)
		if problem != "" {
			k.want(false, at+".address", "%s", problem)
			continue
		}
		if l.Anonymous && !loopback(host) {
			k.warn(at+".anonymous", "whoever reaches %s may read and switch everything; "+
				"better listen on 127.0.0.1, or use tls with require_certificate", l.Address)
		}
		for _, t := range taken {
			k.want(port == "0" || port != t.port || (host != t.host && host != "" && t.host != ""), at+".address",
				"%s is already taken by %s on line %d; change the port", l.Address, t.key, k.line(t.key))
		}
		taken = append(taken, place{host, port, at + ".address"})
	}
}

// login checks that devices can log in on a listener, in one way only.
func (k network) login(l Listener, at string) {
	if l.TLS == nil {
		k.want(l.Anonymous, at, "nobody can log in here; set anonymous: true, or give tls with client_ca and require_certificate: true")
		return
	}
	required := l.TLS.RequireCertificate
	k.want(!required || l.TLS.ClientCA != "", at+".tls.require_certificate",
		"needs client_ca, the file of the CA that signs the devices' certificates")
	k.want(required || l.Anonymous, at+".tls", "nobody can log in here; set require_certificate: true, or anonymous: true for the listener")
	k.want(!required || !l.Anonymous, at+".anonymous", "contradicts tls.require_certificate; remove one of them")
}

// splitAddress parts host:port; host is empty for all addresses of the machine.
func splitAddress(address string) (host, port, problem string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", "", fmt.Sprintf("host:port or :port, not %s; 1883 is usual, 8883 for TLS", quoteShort(address))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return "", "", fmt.Sprintf("the port is a number from 0 to 65535, not %s", quoteShort(port))
	}
	ip, err := netip.ParseAddr(host)
	if err == nil && ip.IsUnspecified() {
		host = ""
	}
	if err != nil && strings.ContainsFunc(host, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '.' && r != '-' && r != '_'
	}) {
		return "", "", fmt.Sprintf("%s is neither an IP address nor a host name", quoteShort(host))
	}
	return host, port, ""
}

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
		k.want(b.Backoff.Min <= b.Backoff.Max, at+".backoff", "min is longer than max")
		k.want(b.KeepAlive%time.Second == 0, at+".keep_alive", "whole seconds, not %v", b.KeepAlive)
		if p := topicProblem(b.StateTopic); p != "" {
			k.want(false, at+".state_topic", "%s", p)
		}
		k.rules(b, at)
	}
	k.loops(c)
}

// upstream checks the URL of a bridge and what belongs to it.
func (k network) upstream(b Bridge, at string) {
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
	if !b.Password.IsZero() && !loopback(u.Hostname()) {
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
