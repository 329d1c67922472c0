package service

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gateway/broker/auth/template"
)

// A Request says what the service is asked, and how.
type Request struct {
	URL    string // http or https
	Method string // GET: the parameters are the query; POST or PUT: they are the body; "": POST
	// Headers are sent as they are. With content-type application/json the body is an object,
	// otherwise it is a form.
	Headers map[string]string
	// Params are the parameters by name, with placeholders.
	Params map[string]string
}

// A question is a Request that was found right.
type question struct {
	what   string // for logs and errors
	url    *url.URL
	method string
	header http.Header
	json   bool
	params []param          // sorted by name
	uses   []template.Input // sorted
	breaker
}

type param struct {
	name  string
	value template.Template
}

// parse checks a Request. With an error comes the key in question.
func (r *Request) parse(what string) (q *question, key string, err error) {
	q = &question{what: what, method: strings.ToUpper(r.Method), header: make(http.Header)}
	if q.url, err = url.Parse(r.URL); err != nil || q.url.Host == "" || q.url.Scheme != "http" && q.url.Scheme != "https" {
		return nil, "url", errors.New("http://HOST:PORT/PATH or https://HOST:PORT/PATH is wanted")
	}
	if q.url.User != nil {
		return nil, "url", errors.New("no user in the URL; give an authorization header")
	}
	switch q.method {
	case "":
		q.method = http.MethodPost
	case http.MethodGet, http.MethodPost, http.MethodPut:
	default:
		return nil, "method", errors.New("GET, POST or PUT")
	}
	for name, value := range r.Headers {
		if !token(name) || strings.ContainsAny(value, "\r\n\x00") {
			return nil, "headers", fmt.Errorf("%q is no header", name)
		}
		q.header.Set(name, value)
	}
	kind, _, _ := strings.Cut(q.header.Get("Content-Type"), ";")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case "application/json":
		q.json = true
	case "", "application/x-www-form-urlencoded":
		q.header.Set("Content-Type", "application/x-www-form-urlencoded")
	default:
		return nil, "headers", errors.New("the content-type is application/json or application/x-www-form-urlencoded")
	}
	for name, text := range r.Params {
		t, err := template.Parse(text)
		if err != nil {
			return nil, "params." + name, err
		}
		q.params = append(q.params, param{name, t})
		q.uses = append(q.uses, t.Uses()...)
	}
	slices.SortFunc(q.params, func(a, b param) int { return strings.Compare(a.name, b.name) })
	slices.Sort(q.uses)
	q.uses = slices.Compact(q.uses)
	return q, "", nil
}

// token reports whether s can be the name of a header (RFC 9110, section 5.6.2).
func token(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// errText is why a client is refused without a question.
var errText = errors.New("what the client shows is not UTF-8, which JSON cannot carry")

// request makes the request for one client.
func (q *question) request(ctx context.Context, v *template.Values, sign []byte) (*http.Request, error) {
	var body []byte
	u := *q.url
	form := make(url.Values)
	object := make(map[string]string)
	for _, p := range q.params {
		text := p.value.Fill(v)
		if q.json && !utf8.ValidString(text) {
			return nil, errText
		}
		form.Set(p.name, text)
		object[p.name] = text
	}
	switch {
	case q.method == http.MethodGet:
		if len(form) > 0 {
			u.RawQuery = strings.Trim(u.RawQuery+"&"+form.Encode(), "&")
		}
	case q.json:
		b, err := json.Marshal(object)
		if err != nil {
			return nil, err
		}
		body = b
	default:
		body = []byte(form.Encode())
	}
	r, err := http.NewRequestWithContext(ctx, q.method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = q.header.Clone()
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
		r.Header.Del("Host")
	}
	if q.method == http.MethodGet {
		r.Header.Del("Content-Type")
	}
	// To ask twice is harmless: a connection that the service has just closed is no failure. A
	// header without values is not sent.
	r.Header["Idempotency-Key"] = nil
	if sign != nil {
		signRequest(r, body, sign, time.Now())
	}
	return r, nil
}

// signRequest adds three headers from which the service can tell that a request is the gateway's,
// fresh, and as it was sent. The signature is HMAC-SHA256 of five lines: time in seconds, nonce,
// method, path with query, and SHA-256 of the body in hexadecimal digits.
func signRequest(r *http.Request, body, key []byte, now time.Time) {
	at, nonce := strconv.FormatInt(now.Unix(), 10), rand.Text()
	sum := sha256.Sum256(body)
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s\n%s\n%s\n%s\n%x", at, nonce, r.Method, r.URL.RequestURI(), sum)
	r.Header.Set("X-Gateway-Timestamp", at)
	r.Header.Set("X-Gateway-Nonce", nonce)
	r.Header.Set("X-Gateway-Signature", "v1="+hex.EncodeToString(mac.Sum(nil)))
}

// ask asks the service. An error says that there is no answer, which is no refusal.
func (q *question) ask(ctx context.Context, c *http.Client, v *template.Values, sign []byte) (answer, error) {
	r, err := q.request(ctx, v, sign)
	if errors.Is(err, errText) {
		return answer{result: deny, why: err.Error()}, nil
	}
	if err != nil {
		return answer{}, bare(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		return answer{}, bare(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer{}, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return answer{}, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	return parseAnswer(resp.StatusCode, resp.Header.Get("Content-Type"), body)
}

// bare takes the URL out of an error, whose query may have a password in it.
func bare(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
