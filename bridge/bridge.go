// Package bridge hands the messages of the local broker to a broker in the cloud, and takes
// the cloud's messages down: in order, at least once at QoS 1, exactly once at QoS 2, whatever
// is cut or restarted.
//
// The bridge has no queue of its own. It is a client of the local broker, with a durable session
// whose subscriptions are the outgoing rules, and whose queue it hands over. Nothing local ever
// waits for it.
package bridge

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"gateway/broker/packet"
	"gateway/broker/topic"
)

// Config says what one bridge connects, and how. Zero values have the defaults named here.
type Config struct {
	// Name names the bridge in logs and in its local state topic.
	Name string
	// URL is mqtt://host[:1883] or mqtts://host[:8883].
	URL string
	// ClientID names the session in the cloud. It must stay the same, and be used by nobody else.
	ClientID           string
	Username, Password string
	// AnnounceBridge tells the cloud by bit 0x80 of the protocol level that a bridge connects.
	// Brokers that know it, such as mosquitto, send nothing back to where it came from and keep
	// the retain flag; others refuse the connection.
	AnnounceBridge bool
	Rules          []Rule
	// StateTopic is where the cloud finds the state of the bridge, retained. Empty: nowhere.
	StateTopic string
	// TLS is called at each connection of an mqtts URL, so that renewed files are used. Nil: the
	// authorities of the system, no certificate.
	TLS func() (*tls.Config, error)

	KeepAlive      time.Duration // whole seconds, 5 s to 18h12m15s; default 30 s: a dead cloud is noticed within 45 s
	ConnectTimeout time.Duration // from looking up the name to CONNACK; default 30 s
	AckTimeout     time.Duration // for the acknowledgement of the oldest message; default 30 s
	BackoffMin     time.Duration // default 1 s
	BackoffMax     time.Duration // default 60 s
	// Window is how many outgoing messages may be unacknowledged, 1 to 32,767; default 20. Before
	// 5.0 the cloud cannot announce what it takes, and mosquitto 2.0 acknowledges and discards
	// what exceeds its max_inflight_messages, by default 20: a window above the cloud's limit
	// loses messages.
	Window    int
	MaxPacket int // bytes of one incoming packet; default 1 MiB

	// Open opens the bridge's session with the local broker: always the same one, never clean,
	// without expiry, with a receive maximum of at least Window.
	Open func(ctx context.Context) (Session, error)
	// Backlog returns how many messages wait in the session, and when the first of them came. It
	// may be nil: then the state does not tell.
	Backlog func() (messages int, oldest time.Time)
	Log     *slog.Logger // nil: slog.Default
}

const stateInterval = 30 * time.Second // between states that differ in the backlog alone

// A Bridge connects the local broker with one cloud.
type Bridge struct {
	config   Config
	rules    rules
	target   target
	log      *slog.Logger
	upstream upstream
	dial     func(context.Context, target, func() (*tls.Config, error)) (net.Conn, error)
	random   func(int64) int64 // see backoff
	drops    drops

	mu    sync.Mutex
	state State

	// Used by Open and Run alone.
	session    Session // what Open has opened for Run; nil afterwards
	opened     bool    // the local subscriptions are those of the rules
	subscribed bool    // so are those in the cloud
	published  int     // the backlog in the last state published
	suspect    suspicion
	heard      time.Time // of the cloud, on the last connection
}

// A suspicion is that the cloud closes the connection because of the message at the head of the
// line. Before 5.0 it cannot say so.
type suspicion struct {
	id     uint16
	losses int // connections lost with this message at the head and nothing acknowledged
}

// New returns a bridge that is ready to Run. The error names all problems of the
// configuration.
func New(c Config) (*Bridge, error) {
	c.KeepAlive = cmp.Or(c.KeepAlive, 30*time.Second)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 30*time.Second)
	c.AckTimeout = cmp.Or(c.AckTimeout, 30*time.Second)
	c.BackoffMin = cmp.Or(c.BackoffMin, time.Second)
	c.BackoffMax = cmp.Or(c.BackoffMax, 60*time.Second)
	c.Window = cmp.Or(c.Window, 20)
	c.MaxPacket = cmp.Or(c.MaxPacket, 1<<20)
	c.Log = cmp.Or(c.Log, slog.Default())
	t, err := parseTarget(c.URL)
	problems := []error{err}
	want := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	want(c.Name != "" && !strings.ContainsAny(c.Name, "/+#\x00"), "name %q: give the bridge a name without /, + and #", c.Name)
	want(c.ClientID != "", "client_id is missing: the cloud keeps the session under this name")
	want(c.Username != "" || c.Password == "", "password without username: MQTT 3.1.1 allows no password alone")
	want(c.KeepAlive >= 5*time.Second && c.KeepAlive <= 65_535*time.Second && c.KeepAlive%time.Second == 0,
		"keep_alive: whole seconds from 5s to 18h12m15s, not %s", c.KeepAlive)
	want(c.Window >= 1 && c.Window < 1<<15, "window: from 1 to 32767, not %d", c.Window)
	want(c.ConnectTimeout > 0 && c.AckTimeout > 0 && c.MaxPacket > 0, "timeouts and limits must be greater than zero")
	want(0 < c.BackoffMin && c.BackoffMin <= c.BackoffMax, "backoff: the shortest wait (%s) must not be longer than the longest (%s)", c.BackoffMin, c.BackoffMax)
	want(len(c.Rules) > 0, "a bridge without rules carries nothing: add one")
	want(c.Open != nil, "there is no way to open the local session")
	if c.StateTopic != "" {
		if err := topic.ValidName(c.StateTopic); err != nil {
			problems = append(problems, fmt.Errorf("state topic: %w", err))
		}
	}
	problems = append(problems, rules(c.Rules).check(c.AnnounceBridge))
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	routePahoLog(c.Log)
	b := &Bridge{config: c, rules: c.Rules, target: t, log: c.Log.With("bridge", c.Name), upstream: paho311{}, dial: dial}
	b.drops.log = b.log
	b.state.URL = t.url
	return b, nil
}

// Open opens the local session: from now on its queue takes what the rules want. Run does it too,
// if it was not done or has failed.
func (b *Bridge) Open(ctx context.Context) (err error) {
	b.session, err = b.open(ctx)
	return err
}

// Run bridges until ctx ends: it connects, hands over, and begins again when the connection is
// lost. Then it says so on both sides, disconnects, and returns nil.
func (b *Bridge) Run(ctx context.Context) error {
	wait := backoff{min: b.config.BackoffMin, max: b.config.BackoffMax, random: b.random}
	var err error
	if b.session == nil {
		err = b.Open(ctx)
	}
	session := b.session
	b.session = nil
	b.enter(Connecting, nil)
	b.publishState(session, nil)
	for ctx.Err() == nil {
		var t try
		if err == nil {
			t = b.connect(ctx, session)
			err = t.err
		}
		if t.useful {
			wait.reset()
		}
		if ctx.Err() != nil {
			break
		}
		if t.used { // what it did not acknowledge comes again from a new opening
			session.Close()
			session = nil
		}
		var openErr error
		if session == nil {
			session, openErr = b.open(ctx)
			err = cmp.Or(openErr, err)
		}
		if b.enter(Down, err) || b.State().Queued != b.published {
			b.publishState(session, nil)
		}
		err = openErr
		sleep(ctx, wait.next())
	}
	b.enter(Offline, nil)
	if session != nil {
		b.publishState(session, nil)
		session.Close()
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// open opens the local session and sees to it that its subscriptions exist. So the queue fills
// from the start of the gateway on, cloud or no cloud.
func (b *Bridge) open(ctx context.Context) (Session, error) {
	s, err := b.config.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLocal, err)
	}
	subs := b.rules.subscriptions(Out)
	if len(subs) == 0 || b.opened && s.SessionPresent() {
		return s, nil
	}
	ack, err := s.Subscribe(packet.Subscribe{ID: 1, Filters: subs})
	for i, code := range ack.Reasons {
		if code.Failed() && err == nil && i < len(subs) {
			err = fmt.Errorf("subscription %q: %s", subs[i].Filter, code)
		}
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("%w: %w", errLocal, err)
	}
	b.opened = true
	return s, nil
}

// A try is how one attempt to connect ended.
type try struct {
	used   bool // there was a connection, and the session was handed over
	useful bool // and it was good for something: no need to wait long
	err    error
}

// connect makes one connection and hands over until it ends.
func (b *Bridge) connect(ctx context.Context, s Session) try {
	l := newLife()
	defer l.end(errClosed)
	dialCtx, stop := context.WithTimeout(ctx, b.config.ConnectTimeout)
	defer stop()
	conn, err := b.dial(dialCtx, b.target, b.config.TLS)
	if err != nil {
		return try{err: explain(b.target, err)}
	}
	h := newHandover(b.config, s, l, &b.drops)
	h.heard = b.heard
	if b.suspect.losses > 0 {
		h.limit = 1 // so that the message which the cloud does not like is the only one in flight
	}
	up, err := b.upstream.connect(dialCtx, conn, b.connectOptions(), l, h)
	if err != nil {
		return try{err: explain(b.target, fmt.Errorf("%w: %w", errUnanswered, err))}
	}
	start := time.Now()
	err = b.handOver(ctx, s, h, up)
	up.close()
	b.heard = l.sign.at()
	t := try{used: true, useful: h.useful() || time.Since(start) >= b.config.BackoffMax}
	t.err = b.judge(h, t.useful, err)
	return t
}

// handOver runs h, and tells the state around it.
func (b *Bridge) handOver(ctx context.Context, s Session, h *handover, up link) error {
	if h.lost && b.subscribed {
		b.log.Warn("the cloud has lost its session: messages that were in flight are sent again and may arrive twice")
	}
	b.enter(Connected, nil)
	var subscribe []packet.Subscription
	if h.lost || !b.subscribed {
		subscribe = b.rules.subscriptions(In)
	}
	h.subscribed = func() { b.subscribed = true }

	refreshed := make(chan struct{})
	go func() {
		defer close(refreshed)
		b.refresh(h.life, s, up)
	}()
	err := h.run(ctx, subscribe)
	if ctx.Err() == nil {
		h.life.end(err)
		<-refreshed
		return h.life.cause()
	}
	defer time.AfterFunc(farewell, func() { h.life.end(errClosed) }).Stop()
	if b.config.StateTopic != "" {
		up.send(packet.Publish{Retain: true, Topic: b.config.StateTopic, Payload: []byte(offline)})
	}
	up.close()
	<-refreshed
	return nil
}

// refresh publishes the state of a connection, now and when the backlog has changed.
func (b *Bridge) refresh(l *life, s Session, up link) {
	tick := time.NewTicker(stateInterval)
	defer tick.Stop()
	for err := b.publishState(s, up); err == nil; {
		select {
		case <-l.Done():
			return
		case <-tick.C:
			if b.State().Queued != b.published {
				err = b.publishState(s, up)
			}
		}
	}
}

// judge explains why a connection was lost. When the cloud closes one connection after the
// other as soon as it is sent the same message, it says so.
func (b *Bridge) judge(h *handover, useful bool, err error) error {
	if err == nil {
		return nil
	}
	head, ok := h.head()
	switch {
	case useful || !ok || !closedByPeer(err) || time.Since(head.at) > b.config.AckTimeout:
		b.suspect = suspicion{}
	case b.suspect.losses > 0 && b.suspect.id == head.id:
		b.suspect.losses++
	default:
		b.suspect = suspicion{head.id, 1}
	}
	const enough = 3
	if b.suspect.losses >= enough {
		return &explained{fmt.Sprintf("%s: the cloud closes the connection whenever it is sent the message to %q (%d bytes, QoS %d), and all others wait behind it: "+
			"check what the cloud allows this client to publish, its largest message, and that nobody else uses this client_id", b.target.address(), head.topic, head.size, head.qos), err}
	}
	return explain(b.target, err)
}

func (b *Bridge) connectOptions() connectOptions {
	o := connectOptions{
		clientID: b.config.ClientID, username: b.config.Username, password: b.config.Password,
		keepAlive: b.config.KeepAlive, announceBridge: b.config.AnnounceBridge,
		maxPacket: b.config.MaxPacket, stall: b.config.AckTimeout,
	}
	if b.config.StateTopic != "" {
		o.will = &packet.Will{Topic: b.config.StateTopic, Payload: []byte(offline), QoS: 1, Retain: true}
	}
	return o
}
