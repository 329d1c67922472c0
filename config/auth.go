package config

import (
	"slices"
	"strings"
)

// Auth is section "auth": who there is. Its files are read again when they change.
type Auth struct {
	ScramFile string `yaml:"scram_file,path"` // users of the methods SCRAM-…, as gateway scram writes them
	TOTPFile  string `yaml:"totp_file,path"`  // secrets of the method PASSWORD-TOTP, as gateway totp writes them
}

// methods checks the methods of enhanced authentication on a listener.
func (k network) methods(c *Config, l Listener, at string) {
	for _, m := range l.Methods {
		switch {
		case m == "PASSWORD-TOTP":
			k.want(c.Auth.TOTPFile != "", at, "%s needs auth.totp_file, the file that gateway totp writes", m)
			k.want(!l.Anonymous, at, "%s needs a password that is looked at, not anonymous: true", m)
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
