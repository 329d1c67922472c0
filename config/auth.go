package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"gateway/broker/topic"
)

// Auth is section "auth": who there is, and what they may do. Its files are read again when they
// change.
type Auth struct {
	PasswordFile string       `yaml:"password_file,path"`                                     // users and passwords as mosquitto_passwd or gateway passwd writes them
	ScramFile    string       `yaml:"scram_file,path"`                                        // users of the methods SCRAM-…, as gateway scram writes them
	TOTPFile     string       `yaml:"totp_file,path"`                                         // secrets of the method PASSWORD-TOTP, as gateway totp writes them
	HTTP         *HTTPAuth    `yaml:"http_auth"`                                              // an HTTP service that is asked; nil: none
	ACLFile      string       `yaml:"acl_file,path"`                                          // what they may do, as Mosquitto has it; asked where no rule decides
	SuperUsers   []string     `yaml:"super_users,text"`                                       // may do everything
	DenyAction   string       `yaml:"deny_action" default:"ignore" words:"ignore disconnect"` // what becomes of a client that does what it may not do
	Groups       []Group      `yaml:"groups"`
	Rules        []AccessRule `yaml:"rules"` // the first that matches decides; none: denied
}

// A Group is an entry of "auth: groups".
type Group struct {
	Name  string   `yaml:"name,required"`
	Users []string `yaml:"users,text,required"`
}

// An AccessRule is an entry of "auth: rules". It is for clients that are in each of its lists.
type AccessRule struct {
	Allow        []string `yaml:"allow" words:"publish subscribe receive"` // who may subscribe may receive
	Deny         []string `yaml:"deny" words:"publish subscribe receive"`
	Topics       []string `yaml:"topics,required"` // filters; %u is the user name, %c the client identifier
	Users        []string `yaml:"users,text"`      // with * at the end: all that begin so
	Clients      []string `yaml:"clients,text"`    // client identifiers, in the same way
	Groups       []string `yaml:"groups"`
	Listeners    []string `yaml:"listeners"`
	Addresses    []string `yaml:"addresses"`    // 192.168.0.0/16, or one address
	Certificates []string `yaml:"certificates"` // attributes that the client's certificate has, OU=field
	MaxQoS       int      `yaml:"max_qos" default:"2" range:"0..2"`
	Retain       bool     `yaml:"retain" default:"true"` // false: not for messages that are to be retained
}

// Prefixes returns the addresses, which the check has found to be some.
func (r *AccessRule) Prefixes() (list []netip.Prefix) {
	for _, a := range r.Addresses {
		p, _ := parsePrefix(a)
		list = append(list, p)
	}
	return list
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && !strings.Contains(s, "/") { // which a zone may have
		a = a.Unmap().WithZone("") // as those of clients are compared
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err == nil && p.Addr().Is4In6() {
		err = errors.New("a network of IPv4 is written as such")
	}
	return p.Masked(), err
}

// RulePlace returns the file and line of a rule of section "auth".
func (c *Config) RulePlace(i int) string {
	return fmt.Sprintf("%s:%d", filepath.Base(c.at.file), c.at.line(fmt.Sprintf("auth.rules[%d]", i)))
}

// certificateAttributes are those that rules and names can ask for.
var certificateAttributes = []string{"CN", "O", "OU", "C", "L", "ST", "subject", "DNS", "URI", "email", "serial", "fingerprint"}

// maxAccessRules bounds what each message is compared with.
const maxAccessRules = 1000

// logins finds what is wrong with who may come in, and what they may do.
type logins struct{ *checker }

// access checks section "auth".
func (k logins) access(c *Config) {
	names := make(map[string]string)
	for i, g := range c.Auth.Groups {
		k.once(names, g.Name, fmt.Sprintf("auth.groups[%d].name", i))
	}
	k.want(len(c.Auth.Rules) <= maxAccessRules, "auth.rules", "at most %d, not %d", maxAccessRules, len(c.Auth.Rules))
	for i, r := range c.Auth.Rules {
		at := fmt.Sprintf("auth.rules[%d]", i)
		allows, denies := len(r.Allow) > 0, len(r.Deny) > 0
		k.want(allows != denies, at, "either allow or deny, with publish, subscribe or receive")
		k.want(!denies || r.MaxQoS == 2 && r.Retain, at, "max_qos and retain are for rules that allow; what no rule allows is denied")
		for j, t := range r.Topics {
			if p := filterProblem(t); p != "" {
				k.want(false, fmt.Sprintf("%s.topics[%d]", at, j), "%s", p)
			} else if err := topic.ValidFilter(t); err != nil {
				k.want(false, fmt.Sprintf("%s.topics[%d]", at, j), "%v", err)
			}
		}
		for j, g := range r.Groups {
			k.want(names[g] != "" || len(c.Auth.Groups) == 0, fmt.Sprintf("%s.groups[%d]", at, j), "there is no group %s in auth.groups", quoteShort(g))
		}
		for j, l := range r.Listeners {
			known := slices.ContainsFunc(c.Listeners, func(n Listener) bool { return n.Name == l })
			k.want(known, fmt.Sprintf("%s.listeners[%d]", at, j), "there is no listener %s", quoteShort(l))
		}
		for j, a := range r.Addresses {
			_, err := parsePrefix(a)
			k.want(err == nil, fmt.Sprintf("%s.addresses[%d]", at, j), "an address as 192.168.1.7, or a network as 192.168.0.0/16, not %s", quoteShort(a))
		}
		for j, a := range r.Certificates {
			key, _, ok := strings.Cut(a, "=")
			k.want(ok && slices.Contains(certificateAttributes, key), fmt.Sprintf("%s.certificates[%d]", at, j),
				"ATTRIBUTE=VALUE with %s, not %s", strings.Join(certificateAttributes, ", "), quoteShort(a))
		}
	}
}

// names checks the templates of names.
func (k logins) names(l Listener, at string) {
	k.want(!k.given(at) || l.TLS != nil && l.TLS.ClientCA != "", at, "only with tls and client_ca, which certificates are checked by")
	for key, t := range map[string]string{".user": l.Names.User, ".client_id": l.Names.ClientID} {
		for rest := t; ; {
			_, after, found := strings.Cut(rest, "{")
			if !found {
				break
			}
			var word string
			word, rest, found = strings.Cut(after, "}")
			k.want(found && slices.Contains(certificateAttributes, word), at+key, "attributes of certificates in braces, {%s}, not %s",
				strings.Join(certificateAttributes, "}, {"), quoteShort(t))
		}
	}
}

// chain checks how clients log in on a listener with a list of ways.
func (k logins) chain(c *Config, l Listener, at string) {
	told := false
	for _, way := range l.Auth {
		switch way {
		case "passwords", "device", "http":
			k.want(way != "passwords" || c.Auth.PasswordFile != "", at, "passwords needs auth.password_file, the file that gateway passwd writes")
			k.want(way != "http" || c.Auth.HTTP != nil, at, "http needs auth.http_auth, which says where the service is")
			if open := l.TLS == nil || l.TLS.Plain; open && !l.Local() && !told {
				told = true
				k.warn(at, "passwords are sent as they are, and can be read on the way to %s; better use tls", l.Address)
			}
		case "certificate":
			k.want(l.TLS != nil && l.TLS.ClientCA != "", at, "certificate needs tls with client_ca, the file of the CA that signs the devices' certificates")
		}
	}
}

// methods checks the methods of enhanced authentication on a listener.
func (k logins) methods(c *Config, l Listener, at string) {
	for _, m := range l.Methods {
		switch {
		case m == "PASSWORD-TOTP":
			k.want(c.Auth.TOTPFile != "", at, "%s needs auth.totp_file, the file that gateway totp writes", m)
			k.want(c.Auth.PasswordFile != "", at, "%s needs auth.password_file, the file that gateway passwd writes", m)
			if l.Anonymous || len(l.Auth) > 0 || l.TLS != nil && l.TLS.RequireCertificate {
				k.warn(at, "whoever leaves the method out leaves the second factor out; better give %s a listener without anonymous, auth and require_certificate", m)
			}
		case strings.HasPrefix(m, "SCRAM-"):
			k.want(c.Auth.ScramFile != "", at, "%s needs auth.scram_file, the file that gateway scram writes", m)
		}
	}
	if len(l.Methods) == 0 {
		return
	}
	k.want(l.Versions == nil || slices.Contains(l.Versions, "5.0"), at, "methods are of MQTT 5.0, which versions does not let in here")
	host, _, _ := splitAddress(l.Address)
	_, isSocket := l.Unix()
	if open := l.TLS == nil || l.TLS.Plain; open && !isSocket && !loopback(host) && slices.Contains(l.Methods, "PASSWORD-TOTP") {
		k.warn(at, "PASSWORD-TOTP sends the password as it is; use tls, or a SCRAM method")
	}
}
