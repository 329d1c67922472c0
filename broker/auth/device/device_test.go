package device_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker/auth"
	"gateway/broker/auth/device"
)

var quiet = slog.New(slog.DiscardHandler)

func login(l *device.Login, name, secret string) (auth.Identity, error) {
	return l.Authenticate(context.Background(), auth.Attempt{
		ClientID: "c", Username: name, Password: []byte(secret), Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7)},
	})
}

// What a device shows, and what it is told.
func TestAuthenticate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "devices")
	r := device.Open(path)
	add := func(d device.Device) string {
		secret, err := r.Add(d)
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	hour := time.Now().Add(time.Hour)
	any := add(device.Device{Name: "any", Labels: map[string]string{"room": "3"}})
	short := add(device.Device{Name: "short", Expires: hour})
	id := add(device.Device{Name: "id", ClientID: "other"})
	here := add(device.Device{Name: "here", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	there := add(device.Device{Name: "there", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}})
	off := add(device.Device{Name: "off"})
	if err := r.Disable("off"); err != nil {
		t.Fatal(err)
	}
	old := add(device.Device{Name: "rotated"})
	rotated, err := r.Rotate("rotated", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	replaced := add(device.Device{Name: "replaced"})
	if _, err := r.Rotate("replaced", 0); err != nil {
		t.Fatal(err)
	}
	l := r.NewLogin(quiet, time.Now)
	refused := errors.New("another reason")
	for _, tt := range []struct {
		name, secret string
		want         error
		expires      bool
	}{
		{"any", any, nil, false},
		{"any", short, auth.ErrBadCredentials, false},
		{"any", "", auth.ErrBadCredentials, false},
		{"any", any + "x", auth.ErrBadCredentials, false},
		{"nobody", any, auth.ErrUnknown, false},
		{"", any, auth.ErrUnknown, false},
		{"short", short, nil, true},
		{"id", id, refused, false},
		{"id", any, auth.ErrBadCredentials, false},
		{"here", here, nil, false},
		{"there", there, refused, false},
		{"off", off, auth.ErrBanned, false},
		{"off", any, auth.ErrBadCredentials, false},
		{"rotated", rotated, nil, false},
		{"rotated", old, nil, true},
		{"replaced", replaced, auth.ErrBadCredentials, false},
	} {
		got, err := login(l, tt.name, tt.secret)
		ok := errors.Is(err, tt.want)
		if tt.want == refused {
			ok = err != nil && !errors.Is(err, auth.ErrBadCredentials) && !errors.Is(err, auth.ErrUnknown) && !errors.Is(err, auth.ErrBanned)
		}
		if !ok || err == nil && (got.User != tt.name || got.By != device.By || got.Expires.IsZero() == tt.expires) {
			t.Errorf("%s %s: %+v, %v", tt.name, tt.secret, got, err)
		}
		if err != nil && tt.secret != "" && strings.Contains(err.Error(), tt.secret) {
			t.Errorf("a secret is in the error %v", err)
		}
	}
	b, err := os.ReadFile(path)
	for _, secret := range []string{any, short, id, here, there, off, old, rotated, replaced} {
		if err != nil || bytes.Contains(b, []byte(secret)) {
			t.Errorf("a secret is in the file, or %v", err)
		}
		if raw, err := base64.RawURLEncoding.DecodeString(secret); err != nil || len(raw) != 32 {
			t.Errorf("%q is %d bytes, %v", secret, len(raw), err)
		}
	}
}

func TestBadDevices(t *testing.T) {
	r := device.Open(filepath.Join(t.TempDir(), "devices"))
	many := make(map[string]string)
	for i := range 33 {
		many[fmt.Sprint(i)] = "x"
	}
	for _, d := range []device.Device{
		{}, {Name: "a/b"}, {Name: "a+"}, {Name: "#"}, {Name: "$a"}, {Name: "a\nb"}, {Name: strings.Repeat("x", 129)},
		{Name: "a", ClientID: "$b"}, {Name: "a", Labels: many}, {Name: "a", Labels: map[string]string{"": "x"}},
		{Name: "a", Labels: map[string]string{"k": "two\nlines"}}, {Name: "a", Addresses: make([]netip.Prefix, 65)},
		{Name: "a", Expires: time.Unix(1, 0)},
	} {
		if _, err := r.Add(d); err == nil {
			t.Errorf("%+v is a device", d)
		}
	}
	if all, err := r.List(); err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
	if _, err := r.Add(device.Device{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Add(device.Device{Name: "a"}); !errors.Is(err, device.ErrExists) {
		t.Error(err)
	}
	for _, err := range []error{r.Remove("b"), r.Disable("b"), r.Enable("b")} {
		if !errors.Is(err, device.ErrNotFound) {
			t.Error(err)
		}
	}
	if _, err := r.Rotate("b", 0); !errors.Is(err, device.ErrNotFound) {
		t.Error(err)
	}
}

// Which change ends the sessions of a device, and of no other.
func TestRevoking(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(r *device.Registry) error
		ends   bool
	}{
		{"remove", func(r *device.Registry) error { return r.Remove("dev") }, true},
		{"disable", func(r *device.Registry) error { return r.Disable("dev") }, true},
		{"rotate", func(r *device.Registry) error { _, err := r.Rotate("dev", 0); return err }, true},
		{"remove and add again", func(r *device.Registry) error {
			err := r.Remove("dev")
			_, err2 := r.Add(device.Device{Name: "dev"})
			return errors.Join(err, err2)
		}, true},
		{"add another", func(r *device.Registry) error { _, err := r.Add(device.Device{Name: "more"}); return err }, false},
	} {
		path := filepath.Join(t.TempDir(), "devices")
		r := device.Open(path)
		for _, name := range []string{"dev", "other"} {
			if _, err := r.Add(device.Device{Name: name}); err != nil {
				t.Fatal(err)
			}
		}
		l := r.NewLogin(quiet, time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		disconnected := make(chan func(*auth.Client) bool, 10)
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.Run(ctx, func(match func(*auth.Client) bool) { disconnected <- match })
		}()
		if err := tt.change(device.Open(path)); err != nil {
			t.Fatal(err)
		}
		if !tt.ends {
			// What comes afterwards is seen, and this was not.
			if err := r.Remove("other"); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case match := <-disconnected:
			for _, c := range []struct {
				auth.Identity
				want bool
			}{
				{auth.Identity{User: "dev", By: device.By}, tt.ends},
				{auth.Identity{User: "dev", By: "file"}, false},
				{auth.Identity{User: "other", By: device.By}, !tt.ends},
			} {
				if match(&auth.Client{Identity: c.Identity}) != c.want {
					t.Errorf("%s: %+v is disconnected: %t", tt.name, c.Identity, !c.want)
				}
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: nobody is disconnected", tt.name)
		}
		cancel()
		<-done
	}
}
