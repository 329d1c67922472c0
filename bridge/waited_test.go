package bridge

import (
	"testing"
	"time"

	"gateway/broker/packet"
)

// A command that waited in the cloud while the link was down says so; a new one does not.
func TestWaited(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	type message struct {
		at   time.Duration // after the connection began
		want string        // "": no property
	}
	for _, tt := range []struct {
		name     string
		heard    time.Time
		present  bool
		messages []message
	}{
		{"an outage of an hour", begin.Add(-time.Hour), true, []message{{0, "3600"}, {900 * time.Millisecond, "3600"}, {1800 * time.Millisecond, "3601"}, {2800 * time.Millisecond, ""}, {2900 * time.Millisecond, ""}}},
		{"quiet from the start", begin.Add(-time.Hour), true, []message{{time.Second, ""}}},
		{"a blink", begin.Add(-400 * time.Millisecond), true, []message{{0, ""}}},
		{"a new process", time.Time{}, true, []message{{0, "315360000"}}},
		{"a new session", begin.Add(-time.Hour), false, []message{{0, ""}}},
	} {
		b := newBacklog(tt.heard, tt.present, begin)
		for _, m := range tt.messages {
			var p packet.Publish
			b.mark(&p, begin.Add(m.at))
			got := ""
			if p.Properties != nil {
				got = p.Properties.User[0].Value
			}
			if got != m.want {
				t.Errorf("%s: after %v: %q, want %q", tt.name, m.at, got, m.want)
			}
		}
	}
	busy := newBacklog(begin.Add(-time.Hour), true, begin)
	for at := time.Duration(0); at < backlogTime; at += quiet / 2 {
		var p packet.Publish
		if busy.mark(&p, begin.Add(at)); p.Properties == nil {
			t.Fatalf("a busy cloud is taken to be without backlog after %v", at)
		}
	}
	var p packet.Publish
	if busy.mark(&p, begin.Add(backlogTime)); p.Properties != nil {
		t.Error("the backlog never ends")
	}
}
