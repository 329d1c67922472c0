package main

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"gateway/broker/auth"
	"gateway/broker/auth/ban"
	"gateway/broker/auth/throttle"
)

// A client that comes in as somebody else than it says, or as nobody, has not logged in: it guesses
// no faster on another listener.
func TestDoorCountsOnlyProof(t *testing.T) {
	bans := ban.Open(filepath.Join(t.TempDir(), bansFile), time.Now).NewCheck(slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		who     auth.Client
		guesses int
	}{
		{auth.Client{Identity: auth.Identity{By: "anonymous"}}, 2},
		{auth.Client{Identity: auth.Identity{User: "pump-1", By: "certificate"}}, 2},
		{auth.Client{Identity: auth.Identity{User: "anna", By: "file"}}, 10},
	} {
		d := &door{bans: bans, throttle: throttle.New(throttle.Limits{Failures: 2, Connects: 100})}
		a := &auth.Attempt{ClientID: "c", Username: "anna"}
		guesses := 0
		for range 10 {
			switch err := d.Enter(a); {
			case err == nil:
				guesses++
				_ = d.Met(a, nil, true)
			case !errors.Is(err, auth.ErrTooOften):
				t.Fatal(err)
			}
			if d.Enter(a) == nil {
				_ = d.Met(a, &c.who, false)
			}
		}
		if guesses != c.guesses {
			t.Errorf("let in between as user %q: %d guesses, want %d", c.who.User, guesses, c.guesses)
		}
	}
}
