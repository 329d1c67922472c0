package service

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Limits of what the service may say.
const (
	maxAnswer = 64 << 10 // bytes of a body
	maxHeader = 16 << 10 // bytes of all headers
	maxRules  = 256      // of one client
)

// lastSecond is the end of the year 9999, beyond which no text has a form for a time.
const lastSecond = 253402300799

// A result is what the service decided.
type result byte

const (
	deny result = iota
	allow
	ignore // it leaves the decision to others
)

var results = map[string]result{"allow": allow, "deny": deny, "ignore": ignore}

// An answer is what the service said.
type answer struct {
	result  result
	why     string // for the log, when it is no allow
	super   bool
	rules   []rule
	expires time.Time // zero: never
}

// errOnlyThis says that the service is there, and has failed at this question. Whoever finds one that
// does that must not keep the others out by asking it again and again.
var errOnlyThis = errors.New("the service fails at this question")

// parseAnswer reads an answer: the status alone decides, as for NanoMQ, unless the body says it in
// the way of EMQX 5. An error says that it is no answer.
//
// 200 and 204 allow. 4xx refuses, but 408 and 429, which say that the service has no time. Everything else,
// redirections too, comes from a service that does not work: what was meant for it is not sent elsewhere.
func parseAnswer(status int, kind string, body []byte) (answer, error) {
	switch {
	case status == http.StatusOK:
		return parseBody(kind, body)
	case status == http.StatusNoContent:
		return answer{result: allow}, nil
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests:
	case status >= 400 && status < 500:
		return answer{result: deny, why: fmt.Sprintf("status %d", status)}, nil
	case status == http.StatusInternalServerError:
		return answer{}, fmt.Errorf("status %d: %w", status, errOnlyThis)
	}
	return answer{}, fmt.Errorf("status %d", status)
}

// parseBody reads the body of an answer with status 200.
func parseBody(kind string, body []byte) (answer, error) {
	body = bytes.TrimSpace(body)
	if len(body) > 0 && body[0] == '{' {
		a, err := parseObject(body)
		if err != nil { // a name in it may be why
			err = fmt.Errorf("the answer: %w: %w", err, errOnlyThis)
		}
		return a, err
	}
	if len(body) > 0 && body[0] == '<' {
		// A wrong address, or a network that wants its guests to log in, shows this to everybody.
		return answer{}, errors.New("the answer is a page")
	}
	kind, _, _ = strings.Cut(kind, ";")
	if len(body) > 0 && strings.EqualFold(strings.TrimSpace(kind), "application/json") {
		return answer{}, errors.New("the answer is said to be JSON, but is no object")
	}
	r, ok := results[string(body)]
	if !ok {
		r = allow // the status says so
	}
	return answer{result: r, why: "it says " + string(body)}, nil
}

// parseObject reads an answer of EMQX 5. One that does not say what the result is leaves it to others, as it does
// there.
func parseObject(body []byte) (answer, error) {
	var o struct {
		Result  *string `json:"result"`
		Super   bool    `json:"is_superuser"`
		Expires *int64  `json:"expire_at"` // seconds since 1970
		Rules   []rule  `json:"acl"`
	}
	if err := json.Unmarshal(body, &o); err != nil {
		return answer{}, err
	}
	a := answer{result: ignore, why: "it is an object without a result", super: o.Super, rules: o.Rules}
	if o.Result != nil {
		r, ok := results[*o.Result]
		if !ok {
			return answer{}, fmt.Errorf("result is %.20q, not allow, deny or ignore", *o.Result)
		}
		a.result, a.why = r, "result is "+*o.Result
	}
	if len(o.Rules) > maxRules {
		return answer{}, fmt.Errorf("%d rules for one client, more than %d", len(o.Rules), maxRules)
	}
	for i := range o.Rules {
		if err := o.Rules[i].check(); err != nil {
			return answer{}, fmt.Errorf("acl[%d]: %w", i, err)
		}
	}
	if o.Expires != nil {
		a.expires = time.Unix(min(max(*o.Expires, 0), lastSecond), 0)
	}
	return a, nil
}
