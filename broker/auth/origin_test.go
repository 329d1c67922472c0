package auth_test

import (
	"net/netip"
	"testing"

	"gateway/broker/auth"
)

func TestOrigin(t *testing.T) {
	for _, tt := range []struct{ addr, want string }{
		{"192.0.2.7", "192.0.2.7"},
		{"::ffff:192.0.2.7", "192.0.2.7"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"},
		{"2001:db8:1:2::", "2001:db8:1:2::"},
		{"fd00:1:2:3:4:5:6:7", "fd00:1:2:3:4:5:6:7"}, // RFC 4193
		{"fe80::1%eth0", "fe80::1"},
		{"::1", "::1"},
	} {
		if got := auth.Origin(netip.MustParseAddr(tt.addr)); got != netip.MustParseAddr(tt.want) {
			t.Errorf("%s is counted as %s, want %s", tt.addr, got, tt.want)
		}
	}
	if got := auth.Origin(netip.Addr{}); got.IsValid() {
		t.Errorf("this machine is counted as %s", got)
	}
}
