package main

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestPlainAPI refuses an order that somebody else can read on its way, before it looks at it.
func TestPlainAPI(t *testing.T) {
	a := &api{log: slog.New(slog.DiscardHandler)}
	for remote, want := range map[string]int{
		"192.0.2.7:50000":   http.StatusForbidden,
		"[2001:db8::1]:500": http.StatusForbidden,
		"127.0.0.1:50000":   http.StatusUnauthorized,
		"[::1]:50000":       http.StatusUnauthorized,
		"@":                 http.StatusUnauthorized, // a Unix socket
	} {
		r := httptest.NewRequest(http.MethodPost, "/api/devices", strings.NewReader(`{"command":"list"}`))
		r.Header.Set("Content-Type", "application/json")
		r.RemoteAddr = remote
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("from %s: %d, want %d", remote, w.Code, want)
		}
	}
}

// TestAPILog proves that strangers cannot fill the log, and that it tells how many there were.
func TestAPILog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		a := &api{log: slog.New(slog.NewTextHandler(&out, nil))}
		ask := func() {
			r := httptest.NewRequest(http.MethodPost, "/api/devices", strings.NewReader(`{}`))
			r.Header.Set("Content-Type", "application/json")
			r.RemoteAddr = "127.0.0.1:50000"
			a.ServeHTTP(httptest.NewRecorder(), r)
		}
		for range 100 {
			ask()
		}
		time.Sleep(turnedAwayEvery)
		ask()
		if n := strings.Count(out.String(), "\n"); n != 2 || !strings.Contains(out.String(), "others_before=99") {
			t.Errorf("%d lines:\n%s", n, &out)
		}
	})
}
