// Package auth decides who a client is and what it may do. It knows neither packets nor
// connections: the broker asks, and acts on the answers.
package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"time"
)

// An Attempt is what a client shows when it connects.
type Attempt struct {
	ClientID    string // empty when the client leaves it to the gateway
	Username    string
	Password    []byte            // nil when there is none; not to be kept
	Certificate *x509.Certificate // verified; nil when there is none
	Addr        net.Addr
	Listener    string // its name
	// Aside takes a place among those who wait for somebody outside to decide about them, and gives up that
	// among those whom the gateway decides about itself, until back is called. Without one that is free,
	// ok is false, and nobody should wait. It is nil where places are not counted.
	Aside func() (back func(), ok bool)
}

// An Identity is who a client was found to be.
type Identity struct {
	User     string     // empty for an anonymous client
	ClientID string     // not empty: takes the place of the client's own
	Groups   []string   // that the user is in
	Super    bool       // may do everything
	Expires  time.Time  // the client is disconnected then; zero: never
	Rules    Authorizer // rules that came with this identity, asked before the listener's; nil: none. A json.Marshaler counts for a will after a restart
	By       string     // which authenticator let it in: "anonymous", "certificate", "file", ...
}

// An Authenticator decides about an Attempt. It may block: only this client waits. Its error is for
// the log; what the client is told depends on the sentinel that it wraps, and tells nothing that
// helps to guess.
type Authenticator interface {
	Authenticate(ctx context.Context, a Attempt) (Identity, error)
}

// The errors of an Authenticator, to be wrapped. The client of one that wraps none of them is told
// that it is not authorized.
var (
	// ErrUnknown says that the attempt is not for this authenticator to decide: the next of a
	// Chain is asked.
	ErrUnknown = errors.New("unknown here")
	// ErrBadCredentials says that the user name or the password is wrong, not which.
	ErrBadCredentials = errors.New("bad user name or password")
	// ErrBanned says that the client is kept out whatever it shows.
	ErrBanned = errors.New("banned")
	// ErrUnavailable says that nobody can decide for now: the client should try again later. That is
	// what it is told, also if ErrBadCredentials is wrapped beside it, by which the failure counts.
	ErrUnavailable = errors.New("authentication is not available for now")
	// ErrTooOften says that the client has to wait: too many attempts have failed, or it connects
	// again and again.
	ErrTooOften = errors.New("held off")
)

// A Chain asks one authenticator after the other. The first that does not answer ErrUnknown
// decides. If all answer that, the client is refused as for a wrong password.
type Chain []Authenticator

// A Delayer is an Authenticator that takes its time. Delay takes as long as to refuse an attempt.
type Delayer interface {
	Delay(ctx context.Context, a Attempt)
}

// Authenticate asks the chain. Whom one knows and refuses gets the answer as late as whom all of them must
// be asked about, so that the time does not tell whose name is known.
func (c Chain) Authenticate(ctx context.Context, a Attempt) (Identity, error) {
	var unknown []error
	for i, next := range c {
		id, err := next.Authenticate(ctx, a)
		if !errors.Is(err, ErrUnknown) {
			for _, rest := range c[i+1:] {
				if d, ok := rest.(Delayer); ok && errors.Is(err, ErrBadCredentials) {
					d.Delay(ctx, a)
				}
			}
			return id, err
		}
		unknown = append(unknown, err)
	}
	return Identity{}, &stranger{errors.Join(unknown...)}
}

// A stranger is the error for a client that nobody knows. It must not be told from one with a wrong
// password, nor be taken for ErrUnknown by a chain around this one.
type stranger struct{ why error }

func (s *stranger) Error() string {
	if s.why == nil {
		return "nobody can log in"
	}
	return s.why.Error()
}

func (s *stranger) Is(target error) bool { return target == ErrBadCredentials }

// A Mechanism is one method of enhanced authentication (5.0, 4.12).
type Mechanism interface {
	Name() string // the Authentication Method that asks for it
	Start(a Attempt) Exchange
}

// A Claimant is a Mechanism that sees in a client's first message which user it says to be. Who is
// banned or held off by name is turned away then, before anything is asked.
type Claimant interface {
	Mechanism
	// Claim returns the user's name for the Authentication Data of CONNECT, empty if it has none.
	Claim(data []byte) string
}

// An Exchange is one authentication by a Mechanism.
type Exchange interface {
	// Next takes the Authentication Data of CONNECT, and then of each AUTH. It may block: only
	// this client waits. Its errors are those of an Authenticator.
	Next(ctx context.Context, data []byte) (Step, error)
}

// A Step is an answer of an Exchange. If it is Done, Data goes into the CONNACK, or into the AUTH
// that ends a re-authentication.
type Step struct {
	Data     []byte
	Done     bool
	Identity Identity // when Done
}

// An Action is what a client wants to do with a topic.
type Action byte

// The actions.
const (
	Publish   Action = iota // a message to a topic name; a will too
	Subscribe               // with a topic filter
	Receive                 // a message of a topic name that a subscription matches
)

// String returns the word for the action.
func (a Action) String() string { return [...]string{"publish", "subscribe", "receive"}[a] }

// A Client is who is asking.
type Client struct {
	Identity
	ID          string // its client identifier
	Listener    string
	Addr        netip.Addr // not valid on a Unix socket
	Certificate *x509.Certificate
}

// A Request is what a client wants to do. Topics have the prefix of its listener. The filter of a
// shared subscription stands without "$share/name/".
type Request struct {
	Action Action
	Topic  string
	QoS    byte // of the message, or the most that is wanted of a subscription
	Retain bool
	// Command says that a message on the topic moves something. A rule allows that only if it names
	// the topic, see Names; a wide one, which was made for data, does not.
	Command bool
}

// A Verdict is an answer to a Request. One that is neither Allowed nor has a Rule is none: the next
// Authorizer is asked.
type Verdict struct {
	Allowed bool
	Rule    string // the rule's text with file and line, or why there is none
	// Unsure says that it is not allowed because somebody could not be asked: what was allowed before is
	// not taken away. In a Verdict that is none it says so of the one that was asked.
	Unsure bool
}

// An Authorizer decides about requests. It is asked for every message: it must be quick, or
// remember its answers. It may block for Publish and Subscribe: only this client waits.
type Authorizer interface {
	Authorize(ctx context.Context, c *Client, r Request) Verdict
}

// A Filter is an Authorizer that has rules for Receive too; others are not asked about it. It is
// asked with locks held, and answers a Receive from memory.
type Filter interface {
	Authorizer
	// Filters reports whether there are rules for what this client receives. It is asked once,
	// when the client connects.
	Filters(c *Client) bool
}
