package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gateway/board/clock"
	"gateway/broker/auth"
	"gateway/broker/auth/service"
	"gateway/config"
)

// loaded reads a configuration from a text, in a folder of its own which is that of the data as well.
func loaded(t *testing.T, text string) *config.Config {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "gateway.yaml")
	if err := os.WriteFile(path, []byte("gateway: {data: "+dir+"}\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return c
}

// With acl_req nothing is allowed that neither the service nor a rule allows, wherever the client comes
// from, whatever on_error is, and however the service fails. "gateway explain" says so too.
func TestServiceThatAllowsNothing(t *testing.T) {
	var answer atomic.Pointer[http.HandlerFunc]
	serve := func(h http.HandlerFunc) { answer.Store(&h) }
	ours := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*answer.Load())(w, r) }))
	t.Cleanup(ours.Close)
	fails := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	ignores := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"result":"ignore"}`) }
	allows := func(http.ResponseWriter, *http.Request) {}
	client := &auth.Client{Identity: auth.Identity{User: "ann", By: service.By}, ID: "c"}
	for _, onError := range []string{"deny", "next", "cached"} {
		for _, rules := range []string{"", "  rules: [{allow: [publish, subscribe], topics: ruled}]\n"} {
			c := loaded(t, fmt.Sprintf(`listeners:
  - {name: net, address: ":18830", auth: http}
  - {name: here, address: "127.0.0.1:18831", auth: http}
auth:
  http_auth:
    auth_req: {url: %q, params: {u: "%%u", c: "%%c"}}
    acl_req: {url: %[1]q, params: {u: "%%u", t: "%%t", a: "%%A"}}
    cache_ttl: 0s
    refused_ttl: 0s
    on_error: %s
%s`, ours.URL, onError, rules))
			a, err := openAccess(c)
			if err != nil {
				t.Fatal(err)
			}
			b := newGuestbook(c, clock.New(built()), slog.New(slog.DiscardHandler))
			// What the service has allowed before is what "cached" goes by.
			serve(allows)
			if _, err := b.service.Authenticate(t.Context(), auth.Attempt{ClientID: "c", Username: "ann", Listener: "net"}); err != nil {
				t.Fatal(err)
			}
			before := auth.Request{Topic: "before"}
			if v := auth.Decide(t.Context(), client, b.rules(c.Listeners[0], a), before); !v.Allowed {
				t.Fatalf("%+v", v)
			}
			if err := b.close(); err != nil { // explain reads what it keeps
				t.Fatal(err)
			}
			kept, err := os.ReadFile(filepath.Join(c.Gateway.Data, acceptedFile))
			if err != nil && onError == "cached" {
				t.Fatal(err)
			}
			for _, mode := range []string{"fails", "ignores"} {
				serve(map[string]http.HandlerFunc{"fails": fails, "ignores": ignores}[mode])
				b = newGuestbook(c, clock.New(built()), slog.New(slog.DiscardHandler)) // one that does not know yet
				for _, l := range c.Listeners {
					for _, r := range []auth.Request{
						{Topic: "any/thing"}, {Action: auth.Subscribe, Topic: "#"}, {Action: auth.Subscribe, Topic: "any/thing"},
						{Topic: "ruled"}, {Action: auth.Subscribe, Topic: "ruled"}, before,
					} {
						what := fmt.Sprintf("%s, on_error %s, rules %t, %s: %s %s", l.Name, onError, rules != "", mode, r.Action, r.Topic)
						client.Listener = l.Name
						want := r.Topic == "ruled" && rules != "" && (mode == "ignores" || onError == "next") ||
							r.Topic == "before" && mode == "fails" && onError == "cached"
						// Asked first: what the gateway learns changes what it keeps.
						q := question{client: "c", user: "ann", listener: l.Name, service: true}
						said, _, err := q.ask(c, r.Action.String(), r.Topic)
						got := auth.Decide(t.Context(), client, b.rules(l, a), r)
						if got.Allowed != want {
							t.Errorf("%s: %+v", what, got)
						}
						if unsure := mode == "fails" && !want; got.Unsure != unsure {
							t.Errorf("%s: it is unsure: %t", what, got.Unsure)
						}
						if err != nil || said.Allowed != got.Allowed || !sameReason(said, got) {
							t.Errorf("%s: %+v, but it is explained as %+v, %v", what, got, said, err)
						}
					}
				}
				if now, _ := os.ReadFile(filepath.Join(c.Gateway.Data, acceptedFile)); string(now) != string(kept) {
					t.Errorf("explain has changed what is kept: %s, before %s", now, kept)
				}
				if err := b.close(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// sameReason reports whether two verdicts have the same reason, but that a service which has failed often is not
// asked by the one and is by the other.
func sameReason(a, b auth.Verdict) bool {
	const no = "the HTTP service does not answer"
	return a.Rule == b.Rule || strings.HasPrefix(a.Rule, no) && strings.HasPrefix(b.Rule, no)
}

// Clients that log in otherwise beside the service's are not held to what it has allowed.
func TestServiceBesideOthers(t *testing.T) {
	c := loaded(t, `listeners: [{name: net, address: ":18830", auth: http, anonymous: true}]
auth:
  http_auth: {auth_req: {url: "http://127.0.0.1:1/"}, acl_req: {url: "http://127.0.0.1:1/"}, timeout: 1s}
`)
	a, err := openAccess(c)
	if err != nil {
		t.Fatal(err)
	}
	b := newGuestbook(c, clock.New(time.Now()), slog.New(slog.DiscardHandler))
	defer b.close()
	other := &auth.Client{Identity: auth.Identity{By: "anonymous"}, Listener: "net"}
	if v := auth.Decide(t.Context(), other, b.rules(c.Listeners[0], a), auth.Request{Topic: "x"}); !v.Allowed {
		t.Errorf("%+v", v)
	}
}
