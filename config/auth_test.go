package config

import (
	"net/netip"
	"testing"
)

// Addresses of rules are compared with those of clients, which are IPv4 as such and have no zone.
func TestRuleAddresses(t *testing.T) {
	for s, want := range map[string]string{
		"192.168.1.7": "192.168.1.7/32", "::ffff:192.168.1.7": "192.168.1.7/32", "fe80::1%eth0": "fe80::1/128",
		"fe80::1/10": "fe80::/10", "10.1.2.3/8": "10.0.0.0/8", "::ffff:10.0.0.0/104": "", "x": "", "fe80::%eth0/10": "",
	} {
		p, err := parsePrefix(s)
		if (err == nil) != (want != "") || err == nil && p != netip.MustParsePrefix(want) {
			t.Errorf("%s: %v, %v, want %s", s, p, err, want)
		}
	}
}
