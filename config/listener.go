package config

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// A Listener is an entry of section "listeners": an address on which devices connect.
// Devices log in with a client certificate or by a method of enhanced authentication, or the
// listener is anonymous.
type Listener struct {
	Name      string    `yaml:"name,required"`
	Address   string    `yaml:"address"`                                                               // host:port; without a host on all addresses, without a port on the customary one; unix:path
	Protocols []string  `yaml:"protocols" default:"mqtt" words:"mqtt websocket http"`                  // told apart by the first bytes
	Versions  []string  `yaml:"versions,text" words:"3.1 3.1.1 5.0"`                                   // of MQTT; none: all
	Anonymous bool      `yaml:"anonymous" default:"false"`                                             // whoever connects may do everything
	Auth      []string  `yaml:"auth" words:"certificate passwords device http"`                        // ways to log in, asked one after the other; none: require_certificate or anonymous
	Names     Names     `yaml:"names"`                                                                 // of clients with a certificate
	Methods   []string  `yaml:"methods" words:"SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1 PASSWORD-TOTP"` // of enhanced authentication, for clients of MQTT 5.0
	TLS       *TLS      `yaml:"tls"`                                                                   // nil: no TLS
	Prefix    string    `yaml:"prefix"`                                                                // before each topic of the clients here, who do not see it; empty: none
	Limits    Bounds    `yaml:"limits"`
	WebSocket WebSocket `yaml:"websocket"`
	Socket    Socket    `yaml:"socket"` // only with a unix: address
}

// Unix returns the path of the socket of a unix: address.
func (l *Listener) Unix() (path string, ok bool) { return strings.CutPrefix(l.Address, "unix:") }

// Names says who a client with a certificate is, by attributes of the certificate in braces.
type Names struct {
	User     string `yaml:"user" default:"{CN}"`
	ClientID string `yaml:"client_id"` // empty: the client's own
}

// Local reports whether the listener can be reached from this machine only.
func (l *Listener) Local() bool {
	host, _, _ := splitAddress(l.Address)
	_, isSocket := l.Unix()
	return isSocket || loopback(host)
}

// Bounds are the limits of one listener, in place of those of section "limits"; 0: as there.
type Bounds struct {
	Connections    int           `yaml:"connections" range:"1..100000"` // at a time, within limits.connections
	PacketSize     int64         `yaml:"packet_size,size" range:"1KiB..64MiB"`
	MessageRate    int           `yaml:"message_rate" range:"1..1000000"`
	ByteRate       int64         `yaml:"byte_rate,size" range:"1B..1GiB"`
	ReceiveMaximum int           `yaml:"receive_maximum" range:"1..65535"`
	Inflight       int           `yaml:"inflight" range:"1..1024"`
	ConnectTimeout time.Duration `yaml:"connect_timeout" range:"1s..5m"`
	KeepAlive      time.Duration `yaml:"keep_alive" range:"1s..18h12m15s"`
}

// TLS is the server's side of a connection. Its files are read again when they change.
type TLS struct {
	Cert               string `yaml:"cert,path,required"`                             // PEM, the server's certificate and what follows up to the CA
	Key                string `yaml:"key,path,required"`                              // PEM
	KeyPassword        Secret `yaml:"key_password"`                                   // of an encrypted key
	ClientCA           string `yaml:"client_ca,path"`                                 // PEM, the CAs that sign clients' certificates
	CRL                string `yaml:"crl,path"`                                       // PEM, lists of revoked certificates, signed by these CAs
	RequireCertificate bool   `yaml:"require_certificate" default:"false"`            // no connection without one; its common name becomes the user name
	MinVersion         string `yaml:"min_version,text" default:"1.2" words:"1.2 1.3"` // of TLS
	Plain              bool   `yaml:"plain" default:"false"`                          // connections without TLS are taken on the same port
}

// WebSocket are the settings of MQTT over WebSocket, with protocol websocket only.
type WebSocket struct {
	Path    string   `yaml:"path" default:"/mqtt"` // of the URL; / is taken too
	Origins []string `yaml:"origins"`              // sites whose pages may connect, besides the gateway's own; "*": all
}

// Socket says who may use a Unix socket.
type Socket struct {
	Owner string `yaml:"owner,text"` // name or number; empty: the gateway's user
	Group string `yaml:"group,text"`
	Mode  string `yaml:"mode,text" default:"0660"` // octal
}

// FileMode returns the mode, which the check has found to be one.
func (s Socket) FileMode() fs.FileMode {
	mode, _ := parseMode(s.Mode)
	return mode
}

func parseMode(s string) (fs.FileMode, bool) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
	return fs.FileMode(n), err == nil && n <= 0o777
}

// maxSocket is the longest path of a socket: one byte less than the kernel's limit, for the name
// under which it is made.
const maxSocket = 106

func (k network) listeners(c *Config) {
	names := make(map[string]string)
	type place struct{ host, port, key string }
	var taken []place
	for i, l := range c.Listeners {
		at := fmt.Sprintf("listeners[%d]", i)
		k.once(names, l.Name, at+".name")
		k.login(l, at)
		logins(k).chain(c, l, at+".auth")
		logins(k).names(l, at+".names")
		logins(k).methods(c, l, at+".methods")
		k.web(l, at)
		k.want(l.Limits.KeepAlive%time.Second == 0, at+".limits.keep_alive", "whole seconds, not %v", l.Limits.KeepAlive)
		k.mount(c, i, at+".prefix")
		_, isSocket := l.Unix()
		if isSocket {
			k.socket(l, at, names)
		}
		k.want(isSocket || !k.given(at+".socket"), at+".socket", "only with an address unix:PATH; remove it")
		k.want(l.Address != "", at+".address", "missing; add it, or give protocols, whose customary port is taken then on all addresses")
		if l.Address == "" || isSocket {
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

// login checks that devices can log in on a listener. A certificate and anonymous contradict each
// other; methods go with both.
func (k network) login(l Listener, at string) {
	if l.TLS == nil {
		k.want(l.Anonymous || len(l.Methods)+len(l.Auth) > 0, at, "nobody can log in here; set anonymous: true, or auth, or give tls with client_ca and require_certificate: true")
		return
	}
	required := l.TLS.RequireCertificate
	k.want(!required || l.TLS.ClientCA != "", at+".tls.require_certificate",
		"needs client_ca, the file of the CA that signs the devices' certificates")
	k.want(required || l.Anonymous || len(l.Methods)+len(l.Auth) > 0, at+".tls", "nobody can log in here; set require_certificate: true, or auth or anonymous: true for the listener")
	k.want(!required || !l.Anonymous, at+".anonymous", "contradicts tls.require_certificate; remove one of them")
	k.want(!required || !l.TLS.Plain, at+".tls.plain", "nobody can log in without TLS where a certificate is required; remove it, or add another listener")
	k.want(l.TLS.CRL == "" || l.TLS.ClientCA != "", at+".tls.crl", "needs client_ca, the file of the CA that signs the list")
}

// web checks the settings of WebSocket.
func (k network) web(l Listener, at string) {
	if !slices.Contains(l.Protocols, "websocket") {
		k.want(!k.given(at+".websocket"), at+".websocket", "only with protocols: [websocket]; add it, or remove this")
		return
	}
	path := l.WebSocket.Path
	k.want(strings.HasPrefix(path, "/") && !strings.ContainsAny(path, "?#% "), at+".websocket.path", "begins with / and is only a path, not %s", quoteShort(path))
	for i, o := range l.WebSocket.Origins {
		u, err := url.Parse(o)
		ok := o == "*" || o == "null" || err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.Scheme+"://"+u.Host == o
		k.want(ok, fmt.Sprintf("%s.websocket.origins[%d]", at, i), `https://HOST or https://HOST:PORT as browsers say it, "*" for all, not %s`, quoteShort(o))
	}
}

// socket checks the address of a Unix socket and who may use it.
func (k network) socket(l Listener, at string, taken map[string]string) {
	path, _ := l.Unix()
	k.want(filepath.Base(path) != "/" && path != "", at+".address", "unix:PATH with the path of a socket")
	k.want(len(path) <= maxSocket, at+".address", "the path of a socket has at most %d bytes", maxSocket)
	k.once(taken, l.Address, at+".address")
	_, ok := parseMode(l.Socket.Mode)
	k.want(ok, at+".socket.mode", "octal, as 0660, not %s", quoteShort(l.Socket.Mode))
}

// mount checks the prefix of a listener: two are the same, or have nothing to do with each other.
func (k network) mount(c *Config, i int, key string) {
	own := c.Listeners[i].Prefix
	k.prefix(own, key)
	for j, l := range c.Listeners[:i] {
		k.want(own == l.Prefix || own == "" || l.Prefix == "" || !strings.HasPrefix(own, l.Prefix) && !strings.HasPrefix(l.Prefix, own), key,
			"%s and %s of listeners[%d] on line %d are parts of each other: clients of one would be in the topics of the other; choose another",
			quoteShort(own), quoteShort(l.Prefix), j, k.line(fmt.Sprintf("listeners[%d].prefix", j)))
	}
}

// port returns the customary port of what is spoken: of MQTT if that is among it. HTTP alone has none.
func (l *Listener) port() string {
	ports := map[bool]string{false: "1883", true: "8883"}
	switch {
	case slices.Contains(l.Protocols, "mqtt"):
	case slices.Contains(l.Protocols, "websocket"):
		ports = map[bool]string{false: "8083", true: "8084"}
	default:
		return ""
	}
	return ports[l.TLS != nil]
}

// withPort returns an address with the port that it does not have itself. One that is none stays so.
func withPort(address, port string) string {
	host, own, err := net.SplitHostPort(address)
	_, number := strconv.ParseUint(address, 10, 64)
	switch ip, bare := netip.ParseAddr(strings.Trim(address, "[]")); {
	case port == "", err == nil && own != "", number == nil:
		return address
	case err == nil:
		return net.JoinHostPort(host, port)
	case bare == nil:
		return net.JoinHostPort(ip.String(), port)
	case !strings.Contains(address, ":"):
		return net.JoinHostPort(address, port)
	}
	return address
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
