package broker_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/packet"
)

// A porter turns away who has one of these names, and notes what becomes of the others.
type porter struct {
	mu   sync.Mutex
	met  []string
	shut bool // nobody gets as far as CONNECT
}

func (d *porter) Knock(netip.Addr) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		return fmt.Errorf("the address is %w", auth.ErrBanned)
	}
	return nil
}

func (d *porter) Enter(a *auth.Attempt) error {
	switch a.Username {
	case "banned":
		return fmt.Errorf("user:banned is %w", auth.ErrBanned)
	case "often":
		return fmt.Errorf("%w for 3 s", auth.ErrTooOften)
	}
	return nil
}

func (d *porter) Met(a *auth.Attempt, c *auth.Client, wrong bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.met = append(d.met, fmt.Sprint(a.Username, " ", c != nil, " ", wrong))
	if c != nil && c.User == "found" {
		return auth.ErrBanned
	}
	return nil
}

// rightPassword lets in whose password is right.
type rightPassword struct{}

func (rightPassword) Authenticate(_ context.Context, a auth.Attempt) (auth.Identity, error) {
	switch string(a.Password) {
	case "right":
		return auth.Identity{User: a.Username}, nil
	case "service":
		return auth.Identity{}, auth.ErrUnavailable
	case "remembered":
		return auth.Identity{}, fmt.Errorf("%w, %w", auth.ErrUnavailable, auth.ErrBadCredentials)
	}
	return auth.Identity{}, auth.ErrBadCredentials
}

// Who is turned away is told why, and is not authenticated; what becomes of the others, the door is
// told once.
func TestDoor(t *testing.T) {
	door := new(porter)
	s := startWith(t, nil, broker.Options{Door: door}).listen(broker.Listener{Name: "passwords", Auth: rightPassword{}})
	for _, tt := range []struct {
		user, password string
		v5, v3         packet.ReasonCode // as CONNACK has it
		met            string
	}{
		{"banned", "right", packet.Banned, packet.NotAuthorized, "[]"},
		{"often", "right", packet.ConnectionRateExceeded, packet.ServerUnavailable, "[]"},
		{"found", "right", packet.Banned, packet.NotAuthorized, "[found true false]"},
		{"good", "right", packet.Success, packet.Success, "[good true false]"},
		{"bad", "wrong", packet.BadUserNameOrPassword, packet.BadUserNameOrPassword, "[bad false true]"},
		{"away", "service", packet.ServerUnavailable, packet.ServerUnavailable, "[away false false]"},
		{"guess", "remembered", packet.ServerUnavailable, packet.ServerUnavailable, "[guess false true]"},
	} {
		for v, want := range map[packet.Version]packet.ReasonCode{packet.V5: tt.v5, packet.V311: tt.v3} {
			door.mu.Lock()
			door.met = nil
			door.mu.Unlock()
			w := s.dial(v)
			c := clean("c")
			c.Username, c.HasUsername, c.Password, c.HasPassword = tt.user, true, []byte(tt.password), true
			w.send(&c)
			w.expect("CONNACK " + want.String())
			door.mu.Lock()
			if got := fmt.Sprint(door.met); got != tt.met {
				t.Errorf("%s: the door was told %s, want %s", tt.user, got, tt.met)
			}
			door.mu.Unlock()
		}
	}
	stats := s.server.Stats()
	if b, h, l := stats.Banned.Load(), stats.HeldOff.Load(), stats.BadLogin.Load(); b != 4 || h != 2 || l != 4 {
		t.Errorf("%d banned, %d held off, %d bad logins", b, h, l)
	}
	door.mu.Lock()
	door.shut = true
	door.mu.Unlock()
	w := s.dial(packet.V5)
	w.expect("closed")
	if b := stats.Banned.Load(); b != 5 {
		t.Errorf("%d banned", b)
	}
}
