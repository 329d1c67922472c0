package ban_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker/auth"
	"gateway/broker/auth/ban"
)

var quiet = slog.New(slog.DiscardHandler)

func list(t *testing.T, bans ...string) *ban.List {
	t.Helper()
	l := ban.Open(filepath.Join(t.TempDir(), "bans"), time.Now)
	for _, s := range bans {
		b, err := ban.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		b.Reason = "why not"
		if err := l.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func TestCheck(t *testing.T) {
	c := list(t, "client:dev-1", "client:*", "pattern:test-*-x*", "user:bob", "address:192.0.2.7", "address:198.51.100.0/24",
		"address:2001:db8::/32", "address:::ffff:203.0.113.1", "address:127.0.0.0/8", "serial:00:0A:1B").NewCheck(quiet)
	serial := &x509.Certificate{SerialNumber: big.NewInt(0x0a1b)}
	tcp := func(s string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(s)} }
	for _, tt := range []struct {
		a    auth.Attempt
		want string // the ban
	}{
		{auth.Attempt{}, ""},
		{auth.Attempt{ClientID: "dev-1"}, "client:dev-1"},
		{auth.Attempt{ClientID: "dev-10"}, ""},
		{auth.Attempt{ClientID: "*"}, "client:*"},
		{auth.Attempt{ClientID: "test-1-x"}, "pattern:test-*-x*"},
		{auth.Attempt{ClientID: "test--xyz"}, "pattern:test-*-x*"},
		{auth.Attempt{ClientID: "test-x"}, ""},
		{auth.Attempt{ClientID: "a-test-1-x"}, ""},
		{auth.Attempt{ClientID: "bob"}, ""},
		{auth.Attempt{Username: "bob"}, "user:bob"},
		{auth.Attempt{Username: "dev-1"}, ""},
		{auth.Attempt{Certificate: serial}, "serial:a1b"},
		{auth.Attempt{Addr: tcp("192.0.2.7")}, "address:192.0.2.7/32"},
		{auth.Attempt{Addr: tcp("::ffff:192.0.2.7")}, "address:192.0.2.7/32"},
		{auth.Attempt{Addr: tcp("192.0.2.8")}, ""},
		{auth.Attempt{Addr: tcp("198.51.100.200")}, "address:198.51.100.0/24"},
		{auth.Attempt{Addr: tcp("203.0.113.1")}, "address:203.0.113.1/32"},
		{auth.Attempt{Addr: tcp("2001:db8:1::1")}, "address:2001:db8::/32"},
		{auth.Attempt{Addr: tcp("127.0.0.1")}, ""}, // nobody locks himself out
		{auth.Attempt{Addr: &net.UnixAddr{Name: "x"}}, ""},
	} {
		err := c.Attempt(&tt.a)
		client := &auth.Client{ID: tt.a.ClientID, Certificate: tt.a.Certificate, Identity: auth.Identity{User: tt.a.Username}}
		if a, ok := tt.a.Addr.(*net.TCPAddr); ok {
			client.Addr = a.AddrPort().Addr()
		}
		in := c.Client(client)
		for _, err := range []error{err, in} {
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("%+v: %v", tt.a, err)
			case tt.want != "" && (!errors.Is(err, auth.ErrBanned) || !strings.HasPrefix(err.Error(), tt.want+" is banned: why not")):
				t.Errorf("%+v: %v, want %s", tt.a, err, tt.want)
			}
		}
	}
	if c.Address(netip.MustParseAddr("198.51.100.1")) == nil || c.Address(netip.MustParseAddr("198.51.101.1")) != nil || c.Address(netip.Addr{}) != nil {
		t.Error("addresses")
	}
}

func TestChanges(t *testing.T) {
	l := list(t, "client:a", "user:b", "client:a")
	bob := ban.Ban{Kind: ban.User, Value: "bob", Until: time.Now().Add(200 * time.Millisecond)}
	if err := l.Add(bob); err != nil {
		t.Fatal(err)
	}
	c := l.NewCheck(quiet)
	if err := c.Attempt(&auth.Attempt{Username: "bob"}); err == nil {
		t.Error("bob is not banned")
	}
	all, err := l.All()
	if err != nil || len(all) != 3 {
		t.Errorf("%d bans, %v", len(all), err)
	}
	for deadline := time.Now().Add(10 * time.Second); c.Attempt(&auth.Attempt{Username: "bob"}) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the ban does not end")
		}
	}
	if all, err := l.All(); err != nil || len(all) != 2 {
		t.Errorf("%d bans are in force, %v", len(all), err)
	}
	if err := l.Remove(ban.Ban{Kind: ban.Client, Value: "a"}); err != nil {
		t.Error(err)
	}
	if err := l.Remove(ban.Ban{Kind: ban.Client, Value: "a"}); !errors.Is(err, ban.ErrNotFound) {
		t.Error(err)
	}
	for _, bad := range []ban.Ban{
		{Kind: ban.User}, {Kind: "colour", Value: "red"}, {Kind: ban.Address, Value: "x"}, {Kind: ban.Address, Value: "1.2.3.4/33"},
		{Kind: ban.Serial, Value: "xyz"}, {Kind: ban.Serial, Value: "0"}, {Kind: ban.User, Value: strings.Repeat("x", 513)},
		{Kind: ban.User, Value: "x", Reason: "two\nlines"}, {Kind: ban.User, Value: "x", Until: time.Unix(1, 0)},
	} {
		if err := l.Add(bad); err == nil {
			t.Errorf("%+v is a ban", bad)
		}
	}
	if _, err := ban.Parse("bob"); err == nil {
		t.Error("bob is a ban")
	}
}

// A change is in force, and ends sessions, without a restart; a damaged file changes nothing.
func TestRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bans")
	c := ban.Open(path, time.Now).NewCheck(quiet)
	ctx, cancel := context.WithCancel(t.Context())
	disconnected := make(chan func(*auth.Client) bool, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx, func(match func(*auth.Client) bool) { disconnected <- match })
	}()
	bob := &auth.Client{Identity: auth.Identity{User: "bob"}}
	began := time.Now()
	if err := ban.Open(path, time.Now).Add(ban.Ban{Kind: ban.User, Value: "bob"}); err != nil {
		t.Fatal(err)
	}
	select {
	case match := <-disconnected:
		if !match(bob) || match(&auth.Client{}) {
			t.Error("not bob, or somebody else")
		}
		t.Logf("after %v", time.Since(began))
	case <-time.After(10 * time.Second):
		t.Fatal("bob is not disconnected")
	}
	if err := os.WriteFile(path, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ban.Open(path, time.Now).NewCheck(quiet).Client(bob) != nil {
		t.Error("junk bans bob")
	}
	if c.Client(bob) == nil {
		t.Error("bob is no longer banned")
	}
	cancel()
	<-done
}

// TestStep: bans follow the time of day that they are given, wherever the machine's clock is.
func TestStep(t *testing.T) {
	day := time.Now().AddDate(-10, 0, 0) // the machine's clock is ten years ahead
	l := ban.Open(filepath.Join(t.TempDir(), "bans"), func() time.Time { return day })
	for _, user := range []string{"alice", "bob"} {
		if err := l.Add(ban.Ban{Kind: ban.User, Value: user, Until: day.Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := l.All(); err != nil || len(all) != 2 || all[0].Since.Sub(day).Abs() > time.Second {
		t.Errorf("%+v, %v", all, err)
	}
	day = day.Add(2 * time.Hour)
	if all, err := l.All(); err != nil || len(all) != 0 {
		t.Errorf("over: %+v, %v", all, err)
	}
}
