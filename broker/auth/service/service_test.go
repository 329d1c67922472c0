package service_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gateway/broker/auth"
	"gateway/broker/auth/service"
	"gateway/internal/ca"
)

var dev = auth.Attempt{ClientID: "dev-1", Username: "ann", Password: []byte("right"), Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 5}}

func wrong() auth.Attempt {
	a := dev
	a.Password = []byte("wrong")
	return a
}

// word is the answer in a word.
func word(err error) string {
	for _, e := range []error{auth.ErrUnknown, auth.ErrUnavailable, auth.ErrBadCredentials} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	if err == nil {
		return "in"
	}
	return "another error: " + err.Error()
}

// What a service in another process can answer, and what becomes of the client, by on_error.
func TestAnswers(t *testing.T) {
	p := startService(t)
	say := func(body string) string { return "/say?body=" + url.QueryEscape(body) }
	const no, later, next = "bad user name or password", "authentication is not available for now", "unknown here"
	for _, tt := range []struct {
		path string
		want string // with Deny
	}{
		{"/check", "in"},
		{"/status/200", "in"},
		{"/status/204", "in"},
		{"/status/400", no},
		{"/status/401", no},
		{"/status/403", no},
		{"/status/404", no},
		{"/status/201", later},
		{"/status/408", later},
		{"/status/429", later},
		{"/status/500", later},
		{"/status/503", later},
		{"/redirect", later},
		{"/slow", later},
		{"/huge", later},
		{"/headers", later},
		{"/half", later},
		{"/junk", later},
		{"/json", later},
		{say("fine"), "in"},
		{say("ignore"), next},
		{say("deny"), no},
		{say("{}"), next},
		{say(`{"error":"bad password"}`), next},
		{say(`{"result":null}`), next},
		{say(`{"result":"allow"}`), "in"},
		{say(`{"result":"deny"}`), no},
		{say(`{"result":"ignore","is_superuser":true}`), next},
		{say(`{"result":"perhaps"}`), later},
		{say(`{"result":1}`), later},
		{say(`{"result":"allow","expire_at":1000}`), no},
		{say(`{"result":"allow","expire_at":99999999999}`), "in"},
		{say(`{"result":"allow"`), later},
		{say("<!DOCTYPE html><title>Welcome to nginx!</title>"), later},
		{say("\n <html>log in to this network</html>"), later},
		{say(`{"result":"allow","acl":[{"permission":"maybe","topic":"a"}]}`), later},
		{say(`{"result":"allow","acl":[{"permission":"allow","topic":"a/#/b"}]}`), later},
		{say(`{"result":"allow","acl":[{"permission":"allow","topic":"a","qos":[3]}]}`), later},
	} {
		o := service.Options{Auth: request(p.url + tt.path)}
		if tt.path == "/slow" {
			o.Timeout = 50 * time.Millisecond
		}
		_, err := start(t, o).Authenticate(t.Context(), dev)
		if got := word(err); got != tt.want {
			t.Errorf("%s: %s (%v), want %s", tt.path, got, err, tt.want)
		}
		o.OnError = service.Next
		_, err = start(t, o).Authenticate(t.Context(), dev)
		if got, want := word(err), strings.Replace(tt.want, later, next, 1); got != want {
			t.Errorf("%s, on_error next: %s, want %s", tt.path, got, want)
		}
	}
	s := start(t, service.Options{Auth: request(p.url + "/check")})
	if _, err := s.Authenticate(t.Context(), wrong()); word(err) != no {
		t.Error(err)
	}
	p.stop()
	if _, err := s.Authenticate(t.Context(), dev); word(err) != later {
		t.Errorf("nobody is there: %v", err)
	}
}

// An echo keeps what it is asked.
type echo struct {
	mu    sync.Mutex
	asked []string
	reply func(r *http.Request, body string) (int, string)
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	e.mu.Lock()
	e.asked = append(e.asked, fmt.Sprint(r.Method, " ", r.URL.RequestURI(), " ", r.Header.Get("Content-Type"), " ", string(b)))
	reply := e.reply
	e.mu.Unlock()
	status, text := http.StatusOK, ""
	if reply != nil {
		status, text = reply(r, string(b))
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

func (e *echo) take() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := strings.Join(e.asked, "\n")
	e.asked = nil
	return all
}

func serveEcho(t *testing.T) (*echo, string) {
	t.Helper()
	e := new(echo)
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	return e, server.URL
}

// All placeholders in all three forms, with everything there and with nothing there.
func TestPlaceholders(t *testing.T) {
	e, u := serveEcho(t)
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: "dev 1", Organization: []string{"Farm"}}}
	full := auth.Attempt{ClientID: "c&1", Username: "ü", Password: []byte(`p"=`), Certificate: cert, Addr: dev.Addr, Listener: "tls"}
	params := map[string]string{
		"a": "%a", "c": "%c", "big_c": "%C", "d": "%d", "m": "%m", "p": "%p", "big_p": "%P", "r": "%r", "t": "%t", "big_a": "%A", "u": "%u",
		"mix": "100%% ${username}@${clientid}", "list": "${peerhost} ${cert_common_name} ${proto_name} ${mountpoint} ${topic}",
	}
	for _, tt := range []struct {
		method, kind string
		a            auth.Attempt
		want         string
	}{
		{"GET", "", full, "GET /?x=1&a=192.0.2.7&big_a=&big_c=dev+1&big_p=p%22%3D&c=c%261&d=CN%3Ddev+1%2CO%3DFarm&list=192.0.2.7+dev+1+MQTT+site%2F+&m=site%2F&mix=100%25+%C3%BC%40c%261&p=8883&r=MQTT&t=&u=%C3%BC  "},
		{"POST", "application/x-www-form-urlencoded", full, "POST /?x=1 application/x-www-form-urlencoded a=192.0.2.7&big_a=&big_c=dev+1&big_p=p%22%3D&c=c%261&d=CN%3Ddev+1%2CO%3DFarm&list=192.0.2.7+dev+1+MQTT+site%2F+&m=site%2F&mix=100%25+%C3%BC%40c%261&p=8883&r=MQTT&t=&u=%C3%BC"},
		{"put", "application/json", full, `PUT /?x=1 application/json {"a":"192.0.2.7","big_a":"","big_c":"dev 1","big_p":"p\"=","c":"c\u00261","d":"CN=dev 1,O=Farm","list":"192.0.2.7 dev 1 MQTT site/ ","m":"site/","mix":"100% ü@c\u00261","p":"8883","r":"MQTT","t":"","u":"ü"}`},
		{"GET", "", auth.Attempt{}, "GET /?x=1&a=&big_a=&big_c=&big_p=&c=&d=&list=++MQTT++&m=&mix=100%25+%40&p=&r=MQTT&t=&u=  "},
		{"POST", "", auth.Attempt{}, "POST /?x=1 application/x-www-form-urlencoded a=&big_a=&big_c=&big_p=&c=&d=&list=++MQTT++&m=&mix=100%25+%40&p=&r=MQTT&t=&u="},
		{"POST", "application/json; charset=utf-8", auth.Attempt{}, `POST /?x=1 application/json; charset=utf-8 {"a":"","big_a":"","big_c":"","big_p":"","c":"","d":"","list":"  MQTT  ","m":"","mix":"100% @","p":"","r":"MQTT","t":"","u":""}`},
	} {
		r := service.Request{URL: u + "/?x=1", Method: tt.method, Params: params}
		if tt.kind != "" {
			r.Headers = map[string]string{"Content-type": tt.kind}
		}
		s := start(t, service.Options{Auth: r, Listeners: map[string]service.Listener{"tls": {Port: 8883, Mount: "site/"}}})
		if _, err := s.Authenticate(t.Context(), tt.a); err != nil {
			t.Error(err)
		}
		if got := e.take(); got != tt.want {
			t.Errorf("%s %s:\n%s\nwant\n%s", tt.method, tt.kind, got, tt.want)
		}
	}
}

// JSON cannot carry every password, and two of them must not become the same one.
func TestNotUTF8(t *testing.T) {
	e, u := serveEcho(t)
	r := request(u)
	r.Headers = map[string]string{"content-type": "application/json"}
	a := dev
	a.Password = []byte("\xff")
	if _, err := start(t, service.Options{Auth: r}).Authenticate(t.Context(), a); word(err) != auth.ErrBadCredentials.Error() || e.take() != "" {
		t.Error(err)
	}
}

func TestBadRequests(t *testing.T) {
	for _, tt := range []struct {
		r    service.Request
		want string
	}{
		{service.Request{}, "auth_req.url: "},
		{service.Request{URL: "ftp://x/"}, "auth_req.url: "},
		{service.Request{URL: "http://u:p@x/"}, "auth_req.url: no user in the URL"},
		{service.Request{URL: "http://x", Method: "HEAD"}, "auth_req.method: GET, POST or PUT"},
		{service.Request{URL: "http://x", Headers: map[string]string{"content-type": "text/xml"}}, "auth_req.headers: the content-type"},
		{service.Request{URL: "http://x", Headers: map[string]string{"a b": "c"}}, "auth_req.headers: "},
		{service.Request{URL: "http://x", Headers: map[string]string{"a": "b\r\nc: d"}}, "auth_req.headers: "},
		{service.Request{URL: "http://x", Params: map[string]string{"a": "%x"}}, "auth_req.params.a: unknown placeholder %x"},
		{service.Request{URL: "http://x", Params: map[string]string{"a": "1%"}}, "auth_req.params.a: a % at the end"},
		{service.Request{URL: "http://x", Params: map[string]string{"a": "${client}"}}, "auth_req.params.a: unknown placeholder ${client}"},
		{service.Request{URL: "http://x", Params: map[string]string{"a": "${clientid"}}, "auth_req.params.a: no }"},
	} {
		if _, err := service.New(service.Options{Auth: tt.r}); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %s", tt.r, err, tt.want)
		}
	}
}

func TestSuper(t *testing.T) {
	e, u := serveEcho(t)
	super := request(u + "/super")
	for _, tt := range []struct {
		auth  string
		super int
		want  bool
		err   string
	}{
		{"", 200, true, "in"},
		{"", 403, false, "in"},
		{"", 500, false, auth.ErrUnavailable.Error()},
		{`{"result":"allow","is_superuser":true}`, 403, true, "in"},
		{`{"result":"deny","is_superuser":true}`, 200, false, auth.ErrBadCredentials.Error()},
	} {
		e.reply = func(r *http.Request, _ string) (int, string) {
			if r.URL.Path == "/super" {
				return tt.super, ""
			}
			return 200, tt.auth
		}
		id, err := start(t, service.Options{Auth: request(u), Super: &super}).Authenticate(t.Context(), dev)
		if word(err) != tt.err || id.Super != tt.want {
			t.Errorf("%+v: %t, %v", tt, id.Super, err)
		}
	}
}

// Answers are kept, allowing ones and refusing ones for their own time, each for exactly what it was
// the answer to; Purge forgets them.
func TestCache(t *testing.T) {
	e, u := serveEcho(t)
	e.reply = func(_ *http.Request, body string) (int, string) {
		if strings.Contains(body, "right") {
			return 200, ""
		}
		return 401, ""
	}
	count := func() int { return len(strings.Fields(strings.ReplaceAll(e.take(), " ", ""))) }
	for _, tt := range []struct {
		keep, keepNo time.Duration
		right, wrong int // questions for three logins
	}{
		{0, 0, 3, 3},
		{time.Hour, 0, 1, 3},
		{0, time.Hour, 3, 1},
	} {
		s := start(t, service.Options{Auth: request(u), Keep: tt.keep, KeepNo: tt.keepNo})
		for range 3 {
			if _, err := s.Authenticate(t.Context(), dev); err != nil {
				t.Error(err)
			}
		}
		if got := count(); got != tt.right {
			t.Errorf("%+v: %d questions about the right password", tt, got)
		}
		for range 3 {
			if _, err := s.Authenticate(t.Context(), wrong()); err == nil {
				t.Error("a wrong password is right")
			}
		}
		if got := count(); got != tt.wrong {
			t.Errorf("%+v: %d questions about the wrong password", tt, got)
		}
	}
	s := start(t, service.Options{Auth: request(u), Keep: time.Hour, KeepNo: time.Hour, CacheSize: 3})
	login := func(id, user string) int {
		a := dev
		a.ClientID, a.Username = id, user
		_, _ = s.Authenticate(t.Context(), a)
		return count()
	}
	for i, tt := range []struct {
		id, user string
		want     int
	}{{"a", "b", 1}, {"ab", "", 1}, {"", "ab", 1}, {"a", "b", 0}, {"d", "d", 1}, {"ab", "", 1}} { // the last one made room
		if got := login(tt.id, tt.user); got != tt.want {
			t.Errorf("%d: %q %q: %d questions", i, tt.id, tt.user, got)
		}
	}
	if err := s.Purge(service.Purge{Client: "a"}); err != nil {
		t.Error(err)
	}
	if login("ab", "") != 0 || login("a", "b") != 1 {
		t.Error("Purge forgets others, or not the one")
	}
}

// Many who ask the same make one request.
func TestSingleFlight(t *testing.T) {
	e, u := serveEcho(t)
	const clients = 20
	release := make(chan struct{})
	e.reply = func(*http.Request, string) (int, string) { <-release; return 200, "" }
	s := start(t, service.Options{Auth: request(u)})
	var work sync.WaitGroup
	var asked, in atomic.Int64
	for range clients {
		work.Go(func() {
			asked.Add(1)
			if _, err := s.Authenticate(t.Context(), dev); err == nil {
				in.Add(1)
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Authenticate(ctx, dev); word(err) != auth.ErrUnavailable.Error() {
		t.Errorf("who does not wait is %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); asked.Load() < clients && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	close(release)
	work.Wait()
	if n := strings.Count(e.take(), "POST"); in.Load() != clients || n > 3 {
		t.Errorf("%d of %d are in, after %d questions", in.Load(), clients, n)
	}
}

// No more requests are under way than there are places, and the service that fails is spared.
func TestPlacesAndBreaker(t *testing.T) {
	e, u := serveEcho(t)
	var now, most atomic.Int64
	e.reply = func(*http.Request, string) (int, string) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(2 * time.Millisecond) // so that they meet
		now.Add(-1)
		return 503, ""
	}
	var log lockedBuffer
	s := start(t, service.Options{Auth: request(u), Pool: 3, Log: slog.New(slog.NewTextHandler(&log, nil))})
	var work sync.WaitGroup
	for i := range 100 {
		work.Go(func() {
			a := dev
			a.ClientID = fmt.Sprint(i)
			if _, err := s.Authenticate(t.Context(), a); word(err) != auth.ErrUnavailable.Error() {
				t.Error(err)
			}
		})
	}
	work.Wait()
	if most.Load() > 3 {
		t.Errorf("%d requests at a time", most.Load())
	}
	// Those that waited for a place were let through before the service had failed so often.
	e.take()
	began, trials := time.Now(), 0
	for range 100 {
		if _, err := s.Authenticate(t.Context(), dev); !strings.Contains(err.Error(), "is not asked for some seconds") {
			trials++
		}
	}
	if most := 1 + int(time.Since(began)/time.Second); trials > most { // a pause that began before may be over
		t.Errorf("it is asked %d times: %s", trials, e.take())
	}
	e.mu.Lock()
	e.reply = nil
	e.mu.Unlock()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, err := s.Authenticate(t.Context(), dev); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it works again, and is not asked")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if got := log.String(); strings.Count(got, "does not work") != 1 || strings.Count(got, "works again") != 1 {
		t.Errorf("the log says:\n%s", got)
	}
}

// One client for whom the answer makes no sense keeps nobody else out.
func TestOddAnswersKeepNobodyOut(t *testing.T) {
	e, u := serveEcho(t)
	e.reply = func(_ *http.Request, body string) (int, string) {
		if strings.Contains(body, "odd") {
			return 200, `{"result":"allow","acl":[{"permission":"allow","topic":"odd#1"}]}`
		}
		return 200, `{"result":"allow"}`
	}
	s := start(t, service.Options{Auth: request(u)})
	for i := range 20 {
		odd := dev
		odd.ClientID = fmt.Sprint("odd", i)
		if _, err := s.Authenticate(t.Context(), odd); word(err) != auth.ErrUnavailable.Error() {
			t.Fatal(err)
		}
	}
	if _, err := s.Authenticate(t.Context(), dev); err != nil {
		t.Error(err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// The service can tell a request of the gateway from others, and from one that was changed.
func TestSignature(t *testing.T) {
	e, u := serveEcho(t)
	nonces := make(map[string]bool)
	e.reply = func(r *http.Request, body string) (int, string) {
		sum := sha256.Sum256([]byte(body))
		mac := hmac.New(sha256.New, []byte("key"))
		nonce := r.Header.Get("X-Gateway-Nonce")
		_, _ = io.WriteString(mac, r.Header.Get("X-Gateway-Timestamp")+"\n"+nonce+"\nPOST\n/a?b=c\n"+hex.EncodeToString(sum[:]))
		if nonces[nonce] || r.Header.Get("X-Gateway-Signature") != "v1="+hex.EncodeToString(mac.Sum(nil)) {
			return 403, ""
		}
		nonces[nonce] = true
		return 200, ""
	}
	s := start(t, service.Options{Auth: request(u + "/a?b=c"), Sign: []byte("key")})
	for range 3 {
		if _, err := s.Authenticate(t.Context(), dev); err != nil {
			t.Error(err)
		}
	}
	if len(nonces) != 3 {
		t.Errorf("%d nonces", len(nonces))
	}
}

// Over HTTPS only the pinned authority is trusted, and the gateway shows its own certificate.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	authority, err := ca.Init(filepath.Join(dir, "ca"), "Service CA", ca.AuthorityLife)
	if err != nil {
		t.Fatal(err)
	}
	server, err := authority.Server([]string{"127.0.0.1"}, ca.LeafLife)
	if err != nil {
		t.Fatal(err)
	}
	client, err := authority.Client("gateway", ca.LeafLife)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(authority.Files().Cert)
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	own, err := tls.LoadX509KeyPair(server.Cert, server.Key)
	if err != nil {
		t.Fatal(err)
	}
	shown, err := tls.LoadX509KeyPair(client.Cert, client.Key)
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewUnstartedServer(new(echo))
	h.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	h.TLS = &tls.Config{Certificates: []tls.Certificate{own}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	h.StartTLS()
	t.Cleanup(h.Close)
	for _, tt := range []struct {
		config *tls.Config
		want   string
	}{
		{&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{shown}}, "in"},
		{&tls.Config{RootCAs: pool}, auth.ErrUnavailable.Error()},
		{&tls.Config{Certificates: []tls.Certificate{shown}}, auth.ErrUnavailable.Error()},
		{nil, auth.ErrUnavailable.Error()},
	} {
		if _, err := start(t, service.Options{Auth: request(h.URL), TLS: tt.config}).Authenticate(t.Context(), dev); word(err) != tt.want {
			t.Errorf("%+v: %v", tt.config, err)
		}
	}
}

// acl_req, with its cache.
func TestRules(t *testing.T) {
	e, u := serveEcho(t)
	acl := service.Request{
		URL: u, Method: "POST",
		Headers: map[string]string{"content-type": "application/x-www-form-urlencoded"},
		Params:  map[string]string{"clientid": "%c", "username": "%u", "access": "%A", "ipaddr": "%a", "topic": "%t", "mountpoint": "%m"},
	}
	s := start(t, service.Options{
		Auth: request(u), ACL: &acl, Keep: time.Hour,
		Listeners: map[string]service.Listener{"m": {Mount: "site/"}},
	})
	rules, ok := s.Rules()
	if !ok {
		t.Fatal("no rules")
	}
	client := &auth.Client{Identity: auth.Identity{User: "ann"}, ID: "dev-1", Listener: "m", Addr: netip.MustParseAddr("192.0.2.7")}
	for _, tt := range []struct {
		status int
		body   string
		r      auth.Request
		want   string // allowed, refused, none
		asked  string
	}{
		{200, "", auth.Request{Action: auth.Publish, Topic: "site/a/b"}, "allowed", "access=2&clientid=dev-1&ipaddr=192.0.2.7&mountpoint=site%2F&topic=a%2Fb&username=ann"},
		{403, "", auth.Request{Action: auth.Publish, Topic: "site/a/b"}, "allowed", ""}, // kept
		{403, "", auth.Request{Action: auth.Subscribe, Topic: "site/a/b"}, "refused", "access=1&clientid=dev-1&ipaddr=192.0.2.7&mountpoint=site%2F&topic=a%2Fb&username=ann"},
		{200, `{"result":"ignore"}`, auth.Request{Action: auth.Subscribe, Topic: "site/#"}, "none", "access=1&clientid=dev-1&ipaddr=192.0.2.7&mountpoint=site%2F&topic=%23&username=ann"},
		{200, "", auth.Request{Action: auth.Publish, Topic: "site/lamp/set", Command: true}, "none", "access=2&clientid=dev-1&ipaddr=192.0.2.7&mountpoint=site%2F&topic=lamp%2Fset&username=ann"},
		{403, "", auth.Request{Action: auth.Publish, Topic: "site/vent/set", Command: true}, "refused", "access=2&clientid=dev-1&ipaddr=192.0.2.7&mountpoint=site%2F&topic=vent%2Fset&username=ann"},
		{500, "", auth.Request{Action: auth.Publish, Topic: "site/c"}, "refused", "access=2&clientid=dev-1&ipaddr=192.0.2.7&mountpoint=site%2F&topic=c&username=ann"},
	} {
		e.reply = func(*http.Request, string) (int, string) { return tt.status, tt.body }
		v := rules.Authorize(t.Context(), client, tt.r)
		got := "none"
		if v.Allowed {
			got = "allowed"
		} else if v.Rule != "" {
			got = "refused"
		}
		asked := strings.TrimPrefix(e.take(), "POST / application/x-www-form-urlencoded ")
		if got != tt.want || asked != tt.asked {
			t.Errorf("%+v: %s (%s) after %q", tt, got, v.Rule, asked)
		}
	}
}

// Who shows something at which the service fails does not keep others out by that.
func TestFailureAtOneQuestion(t *testing.T) {
	e, u := serveEcho(t)
	e.mu.Lock()
	e.reply = func(_ *http.Request, body string) (int, string) {
		if strings.Contains(body, "evil") {
			return 500, ""
		}
		return 200, ""
	}
	e.mu.Unlock()
	s := start(t, service.Options{Auth: request(u)})
	evil := dev
	evil.Username = "evil"
	for range 20 {
		if _, err := s.Authenticate(t.Context(), evil); word(err) != auth.ErrUnavailable.Error() {
			t.Fatal(err)
		}
	}
	if _, err := s.Authenticate(t.Context(), dev); err != nil {
		t.Error(err)
	}
}

// A client for which there is no place among those that wait is answered at once, by what on_error says, and
// the service is not asked.
func TestNoPlaceToWait(t *testing.T) {
	sw := serveSwitchable(t)
	o := sw.options(filepath.Join(t.TempDir(), "accepted"))
	s := start(t, o)
	places, back := 1, 0
	aside := func(a auth.Attempt) auth.Attempt {
		a.Aside = func() (func(), bool) { return func() { back++ }, places > 0 }
		return a
	}
	if _, err := s.Authenticate(t.Context(), aside(dev)); err != nil || back != 1 {
		t.Fatalf("with a place: %v, given back %d times", err, back)
	}
	sw.take()
	places = 0
	stranger := dev
	stranger.ClientID, stranger.Username = "dev-2", "bob"
	for _, tt := range []struct {
		name    string
		onError service.Failure
		a       auth.Attempt
		want    error
		counts  bool // as a wrong password
	}{
		{"accepted before", service.Cached, dev, nil, false},
		{"accepted before with another password", service.Cached, wrong(), auth.ErrUnavailable, true},
		{"not accepted before", service.Cached, stranger, auth.ErrUnavailable, false},
		{"the next decides", service.Next, dev, auth.ErrUnknown, false},
		{"nobody decides", service.Deny, dev, auth.ErrUnavailable, false},
	} {
		if o.OnError = tt.onError; tt.onError != service.Cached {
			s = start(t, o)
		}
		_, err := s.Authenticate(t.Context(), aside(tt.a))
		if !errors.Is(err, tt.want) || errors.Is(err, auth.ErrBadCredentials) != tt.counts {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if got := sw.take(); got != "" || back != 1 {
		t.Errorf("the service was asked %q, %d places were given back", got, back)
	}
}
