package service_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker/auth"
	"gateway/broker/auth/service"
)

// A switchable service knows ann's password, and allows the topic a, unless it is down or she is
// revoked.
type switchable struct {
	*echo
	url string
}

func serveSwitchable(t *testing.T) *switchable {
	e, u := serveEcho(t)
	s := &switchable{e, u}
	s.set(true, true)
	return s
}

func (s *switchable) set(up, ann bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reply = func(_ *http.Request, body string) (int, string) {
		switch {
		case !up:
			return 500, ""
		case strings.Contains(body, "topic="):
			if strings.Contains(body, "topic=a") {
				return 200, ""
			}
			return 403, ""
		case ann && strings.Contains(body, "username=ann") && strings.Contains(body, "password=right"):
			return 200, `{"result":"allow","is_superuser":false,"acl":[{"permission":"deny","action":"publish","topic":"b","qos":[1],"retain":true}]}`
		}
		return 401, ""
	}
}

func (s *switchable) options(file string) service.Options {
	acl := service.Request{URL: s.url, Params: map[string]string{"topic": "%t"}}
	return service.Options{Auth: request(s.url), ACL: &acl, OnError: service.Cached, Grace: time.Hour, GraceFile: file}
}

// Who was accepted may return while the service is away, after a restart too, and do what it did
// before; nobody else may.
func TestGrace(t *testing.T) {
	sw := serveSwitchable(t)
	file := filepath.Join(t.TempDir(), "accepted")
	stranger := dev
	stranger.ClientID, stranger.Username = "dev-2", "bob"
	s := start(t, sw.options(file))
	client := &auth.Client{Identity: auth.Identity{User: "ann"}, ID: "dev-1"}
	publish := func(topic string) bool {
		r, _ := s.Rules()
		return r.Authorize(t.Context(), client, auth.Request{Topic: topic}).Allowed
	}
	expect := func(when string, ann, a bool) {
		t.Helper()
		id, err := s.Authenticate(t.Context(), dev)
		if (err == nil) != ann {
			t.Errorf("%s: ann: %v", when, err)
		}
		if err == nil && (id.User != "ann" || id.Rules.Authorize(t.Context(), client, auth.Request{Topic: "b", QoS: 1, Retain: true}).Rule == "") {
			t.Errorf("%s: ann is %+v", when, id)
		}
		for _, other := range []auth.Attempt{wrong(), stranger, {}} {
			_, err := s.Authenticate(t.Context(), other)
			if err == nil {
				t.Errorf("%s: %s %q is in", when, other.Username, other.Password)
			}
			// Without the service only a wrong secret of a known client is known to be a failure.
			if away := errors.Is(err, auth.ErrUnavailable); away && errors.Is(err, auth.ErrBadCredentials) != (ann && bytes.Equal(other.Password, wrong().Password)) {
				t.Errorf("%s: %s %q: %v", when, other.Username, other.Password, err)
			}
		}
		if publish("a") != a || publish("c") {
			t.Errorf("%s: ann may publish to a: %t, to c: %t", when, publish("a"), publish("c"))
		}
	}
	restart := func() {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		s = start(t, sw.options(file))
	}
	expect("the service works", true, true)
	sw.set(false, true)
	expect("it is away", true, true)
	restart()
	expect("after a restart", true, true)
	b, err := os.ReadFile(file)
	if err != nil || !bytes.Contains(b, []byte("ann")) || bytes.Contains(b, []byte("right")) {
		t.Errorf("the file has %s, %v", b, err)
	}
	sw.set(true, true)
	restart()
	expect("it works again", true, true)
	sw.set(true, false)
	expect("ann is revoked", false, true)
	sw.set(false, false)
	expect("and it is away", false, false)
	restart()
	expect("and after a restart", false, false)
}

// The grace ends, by the clock, and by the time that has passed where there is no clock.
func TestGraceEnds(t *testing.T) {
	sw := serveSwitchable(t)
	file := filepath.Join(t.TempDir(), "accepted")
	s := start(t, sw.options(file))
	if _, err := s.Authenticate(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	sw.set(false, true)
	kept, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, line, _ := bytes.Cut(kept, []byte("\n"))
	for _, tt := range []struct {
		name    string
		ago     time.Duration // by the clock
		used    time.Duration
		expires time.Duration // from now; 0: never
		want    bool
	}{
		{"just now", 0, 0, 0, true},
		{"in time", 59 * time.Minute, 0, 0, true},
		{"too late", 61 * time.Minute, 0, 0, false},
		{"no clock yet", -50 * 365 * 24 * time.Hour, 0, 0, true},
		{"no clock, a while", -50 * 365 * 24 * time.Hour, 59 * time.Minute, 0, true},
		{"no clock, too long", -50 * 365 * 24 * time.Hour, 61 * time.Minute, 0, false},
		{"not expired", 0, 0, time.Hour, true},
		{"expired", time.Minute, 0, -time.Second, false},
	} {
		var record map[string]any
		if err := json.Unmarshal(line, &record); err != nil {
			t.Fatal(err)
		}
		record["at"], record["used"] = time.Now().Add(-tt.ago), tt.used
		if tt.expires != 0 {
			record["expires"] = time.Now().Add(tt.expires)
		}
		b, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "accepted")
		if err := os.WriteFile(file, append(append(bytes.Clone(head), '\n'), b...), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = start(t, sw.options(file)).Authenticate(t.Context(), dev)
		if (err == nil) != tt.want {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// A file that cannot be read lets nobody in, and nothing else fails.
func TestGraceFileDamaged(t *testing.T) {
	sw := serveSwitchable(t)
	file := filepath.Join(t.TempDir(), "accepted")
	if err := os.WriteFile(file, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := service.New(func() service.Options { o := sw.options(file); o.Log = discard; return o }())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Authenticate(t.Context(), dev); err != nil {
		t.Error(err)
	}
	sw.set(false, true)
	if _, err := s.Authenticate(t.Context(), dev); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err == nil {
		t.Error("a file that is not ours is replaced")
	}
}

// A time that no text has a form for, as one in milliseconds, does not keep the file from being written.
func TestGraceWithStrangeTimes(t *testing.T) {
	for _, expires := range []string{"9999999999999", "9223372036854775807"} {
		e, u := serveEcho(t)
		e.mu.Lock()
		e.reply = func(*http.Request, string) (int, string) {
			return 200, `{"result":"allow","expire_at":` + expires + `}`
		}
		e.mu.Unlock()
		file := filepath.Join(t.TempDir(), "accepted")
		s := start(t, service.Options{Auth: request(u), OnError: service.Cached, Grace: time.Hour, GraceFile: file})
		if _, err := s.Authenticate(t.Context(), dev); err != nil {
			t.Errorf("%s: %v", expires, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", expires, err)
		}
		if b, err := os.ReadFile(file); err != nil || !bytes.Contains(b, []byte(dev.ClientID)) {
			t.Errorf("%s: the file has %q, %v", expires, b, err)
		}
	}
}
