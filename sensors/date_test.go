package sensors

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// While the time of day is not known no reading is good, and each says what it will be. When it is
// known, the next reading is not held back by the filter, so that what is retained has a date.
func TestUndated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const decades = 50 * 365 * 24 * time.Hour
		known := false
		pub := new(recorder)
		f, err := NewFeed(pub, slog.New(slog.DiscardHandler), Point{Topic: "p", Filter: Filter{Deadband: 5}}, Point{Topic: "plain", Format: Plain})
		if err != nil {
			t.Fatal(err)
		}
		f.Calendar = func(at time.Time) (time.Time, bool) {
			if known {
				return at, true
			}
			return at.Add(-decades), false
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go f.Run(ctx)
		want := func(when, topic, payload string) {
			t.Helper()
			synctest.Wait()
			got := pub.take(topic)
			if len(got) != 1 || got[0].payload != payload {
				t.Errorf("%s: published %v, want %q", when, got, payload)
			}
		}
		f.Emit(Reading{Point: "p", Value: 1.5, At: time.Now().Add(-1500 * time.Millisecond)})
		want("unset", "p", `{"value":1.5,"quality":"uncertain","at":"1950-01-12T23:59:58.500Z","undated":"good","age_ms":1500}`)
		f.Emit(Reading{Point: "p", Quality: Bad, Err: errors.New("gone")})
		want("unset and bad", "p", `{"value":null,"quality":"bad","error":"gone","at":"1950-01-13T00:00:00.000Z","undated":"bad"}`)
		f.Emit(Reading{Point: "plain", Value: 3.0})
		want("plain", "plain", "3")
		f.Emit(Reading{Point: "p", Value: 2.0})
		want("unset again", "p", `{"value":2,"quality":"uncertain","at":"1950-01-13T00:00:00.000Z","undated":"good"}`)
		f.Emit(Reading{Point: "p", Value: 2.0})
		synctest.Wait()
		if got := pub.take("p"); len(got) > 0 {
			t.Errorf("within the dead band: published %v", got)
		}
		known = true
		f.Emit(Reading{Point: "p", Value: 2.0})
		want("set", "p", `{"value":2,"quality":"good","at":"2000-01-01T00:00:00.000Z"}`)
		f.Emit(Reading{Point: "p", Value: 2.0})
		synctest.Wait()
		if got := pub.take("p"); len(got) > 0 {
			t.Errorf("within the dead band: published %v", got)
		}
	})
}

func TestRedate(t *testing.T) {
	published := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ name, payload, want string }{
		{
			"good", `{"value":1.5,"unit":"°C","quality":"uncertain","at":"1970-01-01T00:00:20.000Z","undated":"good","age_ms":1500}`,
			`{"value":1.5,"unit":"°C","quality":"good","at":"2026-11-21T11:59:58.500Z"}`,
		},
		{
			"bad", `{"value":null,"quality":"bad","error":"gone","at":"1970-01-01T00:00:20.000Z","undated":"bad"}`,
			`{"value":null,"quality":"bad","error":"gone","at":"2026-11-21T12:00:00.000Z"}`,
		},
		{"dated", `{"value":1.5,"quality":"good","at":"2020-01-01T00:00:00.000Z"}`, ""},
		{"somebody else's", `{"value":1,"quality":"good","at":"","undated":"good","more":1}`, ""},
		{"not JSON", `,"undated":"good"`, ""},
		{"two", `{"value":1,"undated":"good"} {"value":1,"undated":"good"}`, ""},
		{"plain", "21.5", ""},
	} {
		want := tt.want
		if want == "" {
			want = tt.payload
		}
		if got := string(Redate([]byte(tt.payload), published)); got != want {
			t.Errorf("%s: %s, want %s", tt.name, got, want)
		}
	}
}
