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
	// Version is packet.V311, which is the default, or packet.V5.
	Version packet.Version
	// URLs are mqtt://host[:1883], mqtts://host[:8883], ws://host[:80][/mqtt] or
	// wss://host[:443][/mqtt], at least one, in order of preference. All lead to the same cloud: to
	// the same session.
	URLs []string
	// ReturnInterval is how often a bridge that uses another URL than the first looks whether one
	// that it prefers can be reached again; default 5 minutes.
	ReturnInterval time.Duration
	Proxy          Proxy
	// ClientID names the session in the cloud. It must stay the same, and be used by nobody else.
	ClientID           string
	Username, Password string
	// Prover is called at each connection for the bridge's side of an authentication method, which
	// takes the place of user name and password. Nil: there is none. 5.0 only.
	Prover func() (Prover, error)
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

	// KeepAlive is in whole seconds, 5 s to 18h12m15s; default 25 s: a dead cloud is noticed within 40 s,
	// and publishes the will within 1.5 times as long and the 5 s between two looks of mosquitto.
	KeepAlive      time.Duration
	ConnectTimeout time.Duration // from looking up the name to CONNACK; default 30 s
	// LookupTimeout and HandshakeTimeout are parts of ConnectTimeout: for the name, and for proxy,
	// TLS and WebSocket together; default 10 s each.
	LookupTimeout, HandshakeTimeout time.Duration
	AckTimeout                      time.Duration // for the acknowledgement of the oldest message; default 30 s
	BackoffMin                      time.Duration // default 1 s
	BackoffMax                      time.Duration // default 60 s
	// Window is how many outgoing messages may be unacknowledged, 1 to MaxWindow; default 20, in 5.0
	// 256, and never more than the cloud's Receive Maximum. Before 5.0 the cloud cannot announce what
	// it takes, and mosquitto 2.0 acknowledges and discards what exceeds its max_inflight_messages,
	// by default 20: a window above the cloud's limit loses messages.
	Window    int
	MaxPacket int // bytes of one incoming packet; default 1 MiB
	// SessionExpiry is how long the cloud keeps the session when the line is lost, 5.0 only;
	// default 30 days.
	SessionExpiry time.Duration
	ReplayRate    Rate
	LostSession   LostPolicy
	// CircleLimit is how often the same message, topic and payload, may cross within 15 seconds
	// before one is stopped, and put aside if it was on its way up; default 50, below zero without
	// limit. 3.1.1 only: in 5.0 crossings are counted in the message.
	CircleLimit int

	// Upgrade makes a WebSocket of a connection, to be used like it. It is needed with ws and wss.
	Upgrade func(ctx context.Context, conn net.Conn, url string) (net.Conn, error)
	// Open opens a session of the bridge with the local broker, by the number of its lane, 0 to
	// MaxLanes-1: for each always the same one, never clean, without expiry, with a receive maximum
	// of at least Window. Lanes above 0 are asked for when a rule says live first, or something
	// waits there.
	Open func(ctx context.Context, lane int) (Session, error)
	// Move moves subscriptions from one open session to another: each message goes to one of them,
	// whenever it comes. It is needed for rules that say live first.
	Move func(from, to Session, subs []packet.Subscription) error
	// Backlog returns how many messages wait in a lane, and when the first of them came. It may be
	// nil: then the state does not tell.
	Backlog func(lane int) (messages int, oldest time.Time)
	// Date returns the time of day of a moment, as far as it is known now, and whether it is. nil:
	// the machine's clock is right. The state has no times that are not known.
	Date func(at time.Time) (day time.Time, known bool)
	Log  *slog.Logger // nil: slog.Default
}

// A LostPolicy says what becomes of messages at QoS 2 that may have arrived in the cloud, when the
// cloud comes back without its session and so cannot tell. What it had acknowledged with PUBREC is
// its own and is never sent again.
type LostPolicy byte

// The policies.
const (
	Resend     LostPolicy = iota // they are sent again, and may arrive twice
	DeadLetter                   // they are put aside
)

// MaxWindow is the largest window.
const MaxWindow = 1024

// upstream returns what speaks the version.
func (c *Config) upstream() upstream {
	if c.Version >= packet.V5 {
		return paho5{}
	}
	return paho311{}
}

const stateInterval = 30 * time.Second // between states that differ in the backlog alone

// A Bridge connects the local broker with one cloud.
type Bridge struct {
	config   Config
	rules    rules
	routes   func() []byte // of this machine, see rest
	log      *slog.Logger
	upstream upstream
	dial     func(context.Context, target, func() (*tls.Config, error)) (net.Conn, error)
	random   func(int64) int64 // see backoff
	drops    drops

	mu    sync.Mutex
	state State     // but for its times
	since time.Time // when it began

	// Used by Open and Run alone.
	targets    targets        // the cloud's URLs
	echoes     *echoes        // 3.1.1 only, else nil
	queues     queues         // what Open has opened for Run; nil afterwards
	opened     [MaxLanes]bool // the local subscriptions are those of the rules
	subscribed bool           // so are those in the cloud
	met        bool           // the cloud has let us in
	published  [2]int64       // the messages that wait, up and down, in the last state published
	caution    caution
	suspect    suspicion
	noRetain   bool      // the cloud retains nothing, not even our will
	heard      time.Time // of the cloud, on the last connection
}

// A suspicion is that the cloud closes the connection because of the message at the head of the
// line. Before 5.0 it cannot say so.
type suspicion struct {
	id     uint16 // on the wire
	losses int    // connections lost with this message at the head and nothing acknowledged
}

// New returns a bridge that is ready to Run. The error names all problems of the
// configuration.
func New(c Config) (*Bridge, error) {
	c.KeepAlive = cmp.Or(c.KeepAlive, 25*time.Second)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 30*time.Second)
	c.AckTimeout = cmp.Or(c.AckTimeout, 30*time.Second)
	c.BackoffMin = cmp.Or(c.BackoffMin, time.Second)
	c.BackoffMax = cmp.Or(c.BackoffMax, 60*time.Second)
	c.Version = cmp.Or(c.Version, packet.V311)
	if c.Window == 0 && c.Version >= packet.V5 {
		c.Window = 256
	}
	c.Window = cmp.Or(c.Window, 20)
	c.SessionExpiry = cmp.Or(c.SessionExpiry, 30*24*time.Hour)
	c.MaxPacket = cmp.Or(c.MaxPacket, 1<<20)
	c.Log = cmp.Or(c.Log, slog.Default())
	c.LookupTimeout = cmp.Or(c.LookupTimeout, 10*time.Second)
	c.HandshakeTimeout = cmp.Or(c.HandshakeTimeout, 10*time.Second)
	c.ReturnInterval = cmp.Or(c.ReturnInterval, 5*time.Minute)
	var to targets
	var problems []error
	for _, u := range c.URLs {
		t, err := parseTarget(u)
		if err == nil && t.path != "" && c.Upgrade == nil {
			err = fmt.Errorf("url %q: there is no way to speak WebSocket", t.url)
		}
		to.all, problems = append(to.all, t), append(problems, err)
	}
	want := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	want(len(c.URLs) > 0, "url is missing: say where the cloud is")
	if c.Proxy.URL != "" {
		_, _, err := c.Proxy.address()
		problems = append(problems, err)
	}
	want(c.Name != "" && !strings.ContainsAny(c.Name, "/+#\x00"), "name %q: give the bridge a name without /, + and #", c.Name)
	want(c.ClientID != "", "client_id is missing: the cloud keeps the session under this name")
	want(c.Version == packet.V311 || c.Version == packet.V5, "version: 3.1.1 or 5.0")
	want(c.Version == packet.V311 || !c.AnnounceBridge, "announce: for MQTT 3.1.1 only, 5.0 has No Local for what it does")
	want(c.Version >= packet.V5 || c.Username != "" || c.Password == "", "password without username: MQTT 3.1.1 allows no password alone")
	want(c.Version >= packet.V5 || c.Prover == nil, "authentication methods are of MQTT 5.0")
	want(c.KeepAlive >= 5*time.Second && c.KeepAlive <= 65_535*time.Second && c.KeepAlive%time.Second == 0,
		"keep_alive: whole seconds from 5s to 18h12m15s, not %s", c.KeepAlive)
	want(c.Window >= 1 && c.Window <= MaxWindow, "window: from 1 to %d, not %d", MaxWindow, c.Window)
	want(c.ReplayRate.Messages >= 0 && c.ReplayRate.Bytes >= 0, "replay rate: not below zero")
	want(c.Move != nil || !rules(c.Rules).liveFirst(), "there is no way to send fresh messages first")
	want(c.ConnectTimeout > 0 && c.LookupTimeout > 0 && c.HandshakeTimeout > 0 && c.AckTimeout > 0 && c.ReturnInterval > 0 && c.MaxPacket > 0, "timeouts and limits must be greater than zero")
	want(0 < c.BackoffMin && c.BackoffMin <= c.BackoffMax, "backoff: the shortest wait (%s) must not be longer than the longest (%s)", c.BackoffMin, c.BackoffMax)
	want(len(c.Rules) > 0, "a bridge without rules carries nothing: add one")
	want(c.Open != nil, "there is no way to open the local session")
	if c.StateTopic != "" {
		if err := topic.ValidName(c.StateTopic); err != nil {
			problems = append(problems, fmt.Errorf("state topic: %w", err))
		}
	}
	problems = append(problems, rules(c.Rules).check(c.AnnounceBridge || c.Version >= packet.V5))
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	routePahoLog(c.Log)
	d := dialer{proxy: c.Proxy, lookup: c.LookupTimeout, handshake: c.HandshakeTimeout, upgrade: c.Upgrade}
	b := &Bridge{
		config: c, rules: c.Rules, targets: to, log: c.Log.With("bridge", c.Name),
		upstream: c.upstream(), dial: d.dial, routes: routes,
	}
	if c.Version < packet.V5 {
		b.echoes = newEchoes(cmp.Or(c.CircleLimit, circleLimit), time.Now())
	}
	b.drops.log = b.log
	b.state.URL = to.current().url
	return b, nil
}

// Open opens the local sessions: from now on their queues take what the rules want. Run does it too,
// if it was not done or has failed.
func (b *Bridge) Open(ctx context.Context) (err error) {
	b.queues, err = b.open(ctx)
	return err
}

// Run bridges until ctx ends: it connects, hands over, and begins again when the connection is
// lost. Then it says so on both sides, disconnects, and returns nil.
func (b *Bridge) Run(ctx context.Context) error {
	wait := backoff{min: b.config.BackoffMin, max: b.config.BackoffMax, random: b.random}
	var err error
	if b.queues == nil {
		err = b.Open(ctx)
	}
	open := b.queues
	b.queues = nil
	b.enter(Connecting, nil)
	b.publishState(open, nil)
	var first error // of the URLs that were tried since the last rest
	for ctx.Err() == nil {
		var t try
		if err == nil {
			t = b.connect(ctx, open)
			err = t.err
		}
		if t.useful {
			wait.reset()
		}
		if ctx.Err() != nil {
			break
		}
		if t.used { // what it did not acknowledge comes again from a new opening
			open.close()
			open = nil
		}
		var openErr error
		if open == nil {
			open, openErr = b.open(ctx)
		}
		again := b.targets.next(t) && openErr == nil
		if again && !t.used { // it is told what was wrong with the URL that is preferred
			b.log.Debug("a URL of the cloud cannot be used", "error", t.err)
			first, err = cmp.Or(first, t.err), nil
			continue
		}
		err, first = cmp.Or(openErr, first, err), nil
		if b.enter(Down, err) || changed(b) {
			b.publishState(open, nil)
		}
		if err = openErr; again {
			continue
		}
		rest(ctx, wait.next(), b.routes)
	}
	b.enter(Offline, nil)
	b.publishState(open, nil)
	open.close()
	return nil
}

// A try is how one attempt to connect ended.
type try struct {
	used   bool // there was a connection, and the session was handed over
	useful bool // and it was good for something: no need to wait long
	good   bool // the URL is: it did not just let the bridge in and say nothing more
	err    error
}

// connect makes one connection and hands over until it ends.
func (b *Bridge) connect(ctx context.Context, open queues) try {
	l := newLife()
	var ushering sync.WaitGroup
	defer ushering.Wait()
	defer l.end(errClosed)
	dialCtx, stop := context.WithTimeout(ctx, b.config.ConnectTimeout)
	defer stop()
	to := b.targets.current()
	b.mu.Lock()
	b.state.URL = to.url
	b.mu.Unlock()
	conn, err := b.dial(dialCtx, to, b.config.TLS)
	if err != nil {
		return try{err: explain(to, err)}
	}
	lanes, err := b.lanes(open)
	if err != nil {
		conn.Close()
		return try{err: fmt.Errorf("%w: %w", errLocal, err)}
	}
	h := newHandover(b.config, lanes, l, &b.drops)
	b.caution.calm = 2 * b.config.BackoffMax
	h.heard, h.echoes, h.caution = b.heard, b.echoes, &b.caution
	ushering.Go(h.usher)
	if b.suspect.losses > 0 {
		h.limit = 1 // so that the message which the cloud does not like is the only one in flight
	}
	if b.suspect.losses >= poisonous {
		h.poison = b.suspect.id
		b.suspect = suspicion{}
	}
	up, err := b.upstream.connect(dialCtx, conn, b.connectOptions(), l, h)
	if err != nil {
		if r, ok := errors.AsType[refusal](err); ok && r.version >= packet.V5 && packet.ReasonCode(r.code) == packet.RetainNotSupported {
			b.noRetain = true // the next try has a will that is not retained
		}
		return try{err: explain(b.targets.current(), fmt.Errorf("%w: %w", errUnanswered, err))}
	}
	start := time.Now()
	b.noRetain = h.noRetain
	err = b.handOver(ctx, open, h, up)
	up.close()
	h.laying.Wait() // or the originals would be sent once more, beside their letters
	b.heard = l.sign.at()
	t := try{used: true, useful: h.useful() || time.Since(start) >= b.config.BackoffMax}
	t.good = h.useful() || h.came > 0 || t.useful && !errors.Is(err, errSilent)
	t.err = b.judge(h, t.useful, err)
	return t
}

// handOver runs h, and tells the state around it.
func (b *Bridge) handOver(ctx context.Context, open queues, h *handover, up link) error {
	known := open.asked(b.config.Name)
	if h.lost && (b.subscribed || !b.met && len(known) > 0) {
		b.lostSession()
	}
	b.met = true
	var subscribe []packet.Subscription
	if h.lost || !b.subscribed {
		subscribe = b.rules.subscriptions(In)
	}
	gone := without(known, subscribe)
	if b.subscribed {
		gone = nil
	}
	if h.lost {
		gone = nil // it has forgotten them by itself
	}
	var refreshed sync.WaitGroup
	if err := open.ask(b.config.Name, subscribe); err != nil {
		return fmt.Errorf("%w: %w", errLocal, err)
	}
	h.subscribed = func() {
		if !b.subscribed {
			open.forget(b.config.Name, b.rules.subscriptions(In))
		}
		b.subscribed = true
		b.enter(Connected, nil)
		refreshed.Go(func() { b.refresh(h.life, open, up) })
		refreshed.Go(func() { b.goHome(h.life) })
	}
	err := h.run(ctx, subscribe, gone)
	if ctx.Err() == nil {
		h.life.end(err)
		refreshed.Wait()
		return h.life.cause()
	}
	defer time.AfterFunc(farewell, func() { h.life.end(errClosed) }).Stop()
	if b.config.StateTopic != "" {
		up.send(packet.Publish{Retain: !b.noRetain, Topic: b.config.StateTopic, Payload: []byte(offline)})
	}
	up.close()
	refreshed.Wait()
	return nil
}

// lostSession tells that the cloud has come back without its session.
func (b *Bridge) lostSession() {
	b.mu.Lock()
	b.state.SessionsLost++
	b.mu.Unlock()
	then := "messages that were in flight are sent again and may arrive twice"
	if b.config.LostSession == DeadLetter {
		then = "messages at QoS 2 that may have arrived are put aside"
	}
	b.log.Warn("the cloud has lost its session: " + then)
}

// refresh publishes the state of a connection, now and when the backlog has changed.
func (b *Bridge) refresh(l *life, open queues, up link) {
	tick := time.NewTicker(stateInterval)
	defer tick.Stop()
	for err := b.publishState(open, up); err == nil; {
		select {
		case <-l.Done():
			return
		case <-tick.C:
			if changed(b) {
				err = b.publishState(open, up)
			}
		}
	}
}

// poisonous is how many connections in a row a message may cost, on which nothing came but CONNACK
// and SUBACK, before it is put aside. Before 5.0 a cloud has no other way to refuse it. With the
// waits between them that takes minutes: a line that is bad for so long is taken for a cloud that
// refuses, but nothing is lost by that.
const poisonous = 10

// judge explains why a connection was lost. When the cloud closes one connection after the
// other as soon as it is sent the same message, it says so.
func (b *Bridge) judge(h *handover, useful bool, err error) error {
	if err == nil {
		return nil
	}
	head, ok := h.head()
	dismissed, told := errors.AsType[dismissal](err)
	switch {
	case useful || h.came > 0 || !ok || !closedByPeer(err) && !(told && dismissed.blames()) || time.Since(head.at) > b.config.AckTimeout:
		b.suspect = suspicion{}
	case b.suspect.losses > 0 && b.suspect.id == head.id:
		b.suspect.losses++
	default:
		b.suspect = suspicion{head.id, 1}
	}
	const enough = 3
	if b.suspect.losses >= enough {
		return &explained{fmt.Sprintf("%s: the cloud closes the connection whenever it is sent the message to %q (%d bytes, QoS %d), and all others wait behind it: "+
			"check what the cloud allows this client to publish, its largest message, and that nobody else uses this client_id", b.targets.current().address(), head.p.Topic, len(head.p.Payload), head.qos), err}
	}
	return explain(b.targets.current(), err)
}

func (b *Bridge) connectOptions() connectOptions {
	o := connectOptions{
		clientID: b.config.ClientID, username: b.config.Username, password: b.config.Password,
		keepAlive: b.config.KeepAlive, announceBridge: b.config.AnnounceBridge,
		sessionExpiry: b.config.SessionExpiry,
		maxPacket:     b.config.MaxPacket, stall: b.config.AckTimeout,
	}
	if o.prove = b.config.Prover; o.prove != nil {
		o.username, o.password = "", ""
	}
	if b.config.StateTopic != "" {
		o.will = &packet.Will{Topic: b.config.StateTopic, Payload: []byte(offline), QoS: 1, Retain: !b.noRetain}
	}
	return o
}
