package bridge

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
)

// A target is where a URL points to.
type target struct {
	url    string // without user and password
	host   string
	port   string
	path   string // of a WebSocket; empty: none is spoken
	secure bool
}

func (t target) address() string { return net.JoinHostPort(t.host, t.port) }

// schemes are those of a cloud, with the customary ports. tcp is another word for mqtt; tls and
// ssl are for mqtts.
var schemes = map[string]struct {
	port           string
	secure, socket bool
}{
	"mqtt": {port: "1883"}, "tcp": {port: "1883"},
	"mqtts": {port: "8883", secure: true}, "tls": {port: "8883", secure: true}, "ssl": {port: "8883", secure: true},
	"ws": {port: "80", socket: true}, "wss": {port: "443", secure: true, socket: true},
}

// parseURL parses a URL of a host, without telling the password that may be in it. known tells of a
// scheme; hint says which ones are.
func parseURL(s string, known func(scheme string) bool, hint string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		var bad *url.Error
		if errors.As(err, &bad) {
			err = bad.Err // without the url, which may have a password in it
		}
		return nil, fmt.Errorf("url: %w", err)
	}
	switch {
	case !known(u.Scheme):
		return nil, fmt.Errorf("url %q: scheme %q is not known, use %s", u.Redacted(), u.Scheme, hint)
	case u.Hostname() == "":
		return nil, fmt.Errorf("url %q: the host is missing", u.Redacted())
	case u.User != nil:
		return nil, fmt.Errorf("url %q: user and password have settings of their own, take them out of the url", u.Redacted())
	}
	return u, nil
}

// parseTarget reads mqtt://host:port, mqtts://host:port, ws://host:port/path and
// wss://host:port/path.
func parseTarget(s string) (target, error) {
	known := func(scheme string) bool { _, ok := schemes[scheme]; return ok }
	u, err := parseURL(s, known, "mqtt, mqtts, ws or wss, as in mqtts://host:port")
	if err != nil {
		return target{}, err
	}
	scheme := schemes[u.Scheme]
	t := target{host: u.Hostname(), port: cmp.Or(u.Port(), scheme.port), secure: scheme.secure}
	t.url = u.Scheme + "://" + t.address()
	switch {
	case scheme.socket:
		t.path = cmp.Or(u.EscapedPath(), "/mqtt")
		if u.RawQuery != "" {
			t.path += "?" + u.RawQuery
		}
		t.url += t.path
	case u.Path != "" && u.Path != "/" || u.RawQuery != "":
		return target{}, fmt.Errorf("url %q: nothing may follow the port", u.Redacted())
	}
	return t, nil
}

// A Proxy is what stands between the site and the cloud.
type Proxy struct {
	URL                string // http://host:port for HTTP CONNECT, or socks5://host:port
	Username, Password string
}

// address returns the proxy's address and whether it speaks SOCKS5.
func (p Proxy) address() (address string, socks bool, err error) {
	known := func(scheme string) bool { return scheme == "http" || scheme == "socks5" }
	u, err := parseURL(p.URL, known, "http or socks5, as in http://host:3128")
	if err != nil {
		return "", false, fmt.Errorf("proxy: %w", err)
	}
	port := "3128"
	if u.Scheme == "socks5" {
		port = "1080"
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)), u.Scheme == "socks5", nil
}
