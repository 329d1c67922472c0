package bridge

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gateway/broker/packet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// everything carries all of "up/" and "down/".
var everything = []Rule{
	{Direction: Out, Filter: "up/#", RemotePrefix: "site/", QoS: 2},
	{Direction: In, Filter: "down/#", LocalPrefix: "local/", QoS: 2},
}

// testConfig is a bridge between a ledger and an URL, with short waits.
func testConfig(t *testing.T, l *ledger, url string) Config {
	return Config{
		Name: "cloud", URLs: []string{url}, ClientID: "site", Rules: everything, Window: 20,
		ConnectTimeout: 5 * time.Second, AckTimeout: 5 * time.Second,
		BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond,
		Open: l.open, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// start runs a bridge until stop is called or the test ends.
func start(t testing.TB, c Config) (b *Bridge, stop func()) {
	t.Helper()
	b, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := b.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return b, stop
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func numbers(n int) []string {
	var s []string
	for i := range n {
		s = append(s, strconv.Itoa(i))
	}
	return s
}

// firsts returns the payloads without repetitions.
func firsts(payloads []string) []string {
	seen := make(map[string]bool)
	var s []string
	for _, p := range payloads {
		if !seen[p] {
			s, seen[p] = append(s, p), true
		}
	}
	return s
}

// places is how many places the connection is cut at: a complete exchange has 130 packets.
var places = flag.Int("places", 60, "places at which TestExactlyOnceThroughEveryCut cuts")

// Both directions at once, at QoS 1 and 2, through a connection that is cut at the n-th
// packet three times, with and without a crash of the whole gateway at the same moment.
func TestExactlyOnceThroughEveryCut(t *testing.T) {
	t.Cleanup(func() {
		t.Logf("%d cuts at packet boundaries, at half of them the gateway crashes; lost 0, doubled at QoS 2 0, out of order 0", len(versions)*2**places*3)
	})
	for _, version := range versions {
		for _, crash := range []bool{false, true} {
			for n := 1; n <= *places; n++ {
				t.Run(fmt.Sprintf("version=%d/crash=%t/packet=%d", version, crash, n), func(t *testing.T) {
					t.Parallel()
					throughCuts(t, version, n, crash)
				})
			}
		}
	}
}

var versions = []packet.Version{packet.V311, packet.V5}

func throughCuts(t *testing.T, version packet.Version, n int, crash bool) {
	const messages = 12
	l := newLedger(t, time.Millisecond)
	c := newCloud(t, l)
	cut := make(chan struct{}, 3)
	c.speak(dialect{version: version})
	c.cuts = []int{n, n, n}
	c.onCut = func() {
		if crash {
			l.crash()
			cut <- struct{}{}
		}
	}
	var down []int
	for i := range messages {
		l.add(message("up/one", 1, i), message("up/two", 2, i))
		down = append(down, i)
	}
	c.queue("down/one", 1, down...)
	c.queue("down/two", 2, down...)

	config := testConfig(t, l, c.url())
	config.Version = version
	_, stop := start(t, config)
	complete := func() bool {
		select {
		case <-cut:
			stop()
			_, stop = start(t, config)
		default:
		}
		l.mu.Lock()
		open := slices.ContainsFunc(l.queue, func(e *entry) bool { return e.stage != finished })
		l.mu.Unlock()
		c.mu.Lock()
		defer c.mu.Unlock()
		return !open && !slices.ContainsFunc(c.down, func(d *downward) bool { return !d.done })
	}
	eventually(t, "all messages on both sides", complete)

	want := numbers(messages)
	for what, got := range map[string][]string{
		"QoS 1 in the cloud": firsts(c.arrived("site/up/one")),
		"QoS 2 in the cloud": c.arrived("site/up/two"),
		"QoS 1 here":         firsts(l.published("local/down/one")),
		"QoS 2 here":         l.published("local/down/two"),
	} {
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// A long stream in both directions while the connection is cut again and again.
func TestStreamThroughCuts(t *testing.T) {
	for _, version := range versions {
		t.Run(fmt.Sprintf("version=%d", version), func(t *testing.T) { streamThroughCuts(t, version) })
	}
}

func streamThroughCuts(t *testing.T, version packet.Version) {
	const messages = 1500
	l := newLedger(t, time.Millisecond)
	c := newCloud(t, l)
	for i := range 40 {
		c.cuts = append(c.cuts, 5+i*7)
	}
	var down []int
	for i := range messages {
		l.add(message("up/two", 2, i))
		if i < 300 {
			down = append(down, i)
		}
	}
	c.queue("down/two", 2, down...)
	c.speak(dialect{version: version})
	config := testConfig(t, l, c.url())
	config.Version = version
	start(t, config)
	eventually(t, "all messages", func() bool {
		return len(c.arrived("site/up/two")) >= messages && len(l.published("local/down/two")) >= len(down)
	})
	if got := c.arrived("site/up/two"); !slices.Equal(got, numbers(messages)) {
		t.Errorf("the cloud got %d messages, not %d in order", len(got), messages)
	}
	if got := l.published("local/down/two"); !slices.Equal(got, numbers(len(down))) {
		t.Errorf("here are %d messages, not %d in order", len(got), len(down))
	}
}

// While nothing is acknowledged, no more than the window is in flight.
func TestWindow(t *testing.T) {
	l := newLedger(t, 0)
	c := newCloud(t, l)
	c.hold = true
	for i := range 50 {
		l.add(message("up/a", packet.QoS(1+i%2), i))
	}
	config := testConfig(t, l, c.url())
	config.Window = 7
	start(t, config)
	flying := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.maxInFlight
	}
	eventually(t, "a full window", func() bool { return flying() >= 7 })
	l.add(message("up/zero", 0, 1)) // more work does not widen it
	if n := flying(); n != 7 {
		t.Errorf("%d messages in flight, the window is 7", n)
	}
}

// A connection on which nothing is acknowledged is given up, and the messages are sent again.
func TestAckTimeout(t *testing.T) {
	l := newLedger(t, 0)
	c := newCloud(t, l)
	c.hold = true
	l.add(message("up/a", 1, 0))
	config := testConfig(t, l, c.url())
	config.AckTimeout = 50 * time.Millisecond
	b, _ := start(t, config)
	eventually(t, "the reason in the state", func() bool {
		s := b.State()
		return s.State == Down && s.LastError == b.targets.current().address()+": the cloud does not acknowledge what it is sent: the line is stalled or the broker is overloaded"
	})
	c.mu.Lock()
	c.hold = false
	c.mu.Unlock()
	eventually(t, "the message as done", func() bool { _, open := l.durable(1); return !open })
}

// One message without its acknowledgement is not forgotten behind others that have theirs.
func TestOneAcknowledgementMissing(t *testing.T) {
	l := newLedger(t, 0)
	c := newCloud(t, l)
	c.skip = "site/up/skipped"
	l.add(message("up/skipped", 1, 0))
	config := testConfig(t, l, c.url())
	config.AckTimeout = 200 * time.Millisecond
	b, _ := start(t, config)
	stop := make(chan struct{})
	fed := make(chan struct{})
	go func() { // acknowledgements come all the time
		defer close(fed)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				l.add(message("up/a", 1, i))
			}
		}
	}()
	eventually(t, "the reason in the state", func() bool {
		return strings.Contains(b.State().LastError, "does not acknowledge what it is sent")
	})
	close(stop)
	<-fed
	c.mu.Lock()
	c.skip = ""
	c.mu.Unlock()
	eventually(t, "the message as done", func() bool { _, open := l.durable(1); return !open })
}

// A cloud without our session gets what was not acknowledged once more; what it had acknowledged
// with PUBREC is its own. Identifiers of its former messages mean nothing any more.
func TestCloudLosesSession(t *testing.T) {
	l := newLedger(t, 0)
	c := newCloud(t, l)
	l.add(message("up/a", 2, 0), message("up/a", 2, 1), message("up/a", 1, 2))
	l.queue[0].stage = released
	l.received[9] = true // and the cloud uses 9 for a new message
	c.nextID = 8
	c.queue("down/a", 2, 5)
	start(t, testConfig(t, l, c.url()))
	eventually(t, "the messages", func() bool {
		return slices.Equal(c.arrived("site/up/a"), []string{"1", "2"}) && slices.Equal(l.published("local/down/a"), []string{"5"})
	})
	eventually(t, "an empty queue", func() bool { _, open := l.durable(1); return !open })
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pubrels[1] > 0 {
		t.Error("PUBREL for a message that the cloud has forgotten")
	}
}

// What Next returns as released before is finished with PUBREL alone.
func TestReleasedBefore(t *testing.T) {
	l := newLedger(t, 0)
	c := newCloud(t, l)
	c.session = true
	c.received[1] = true
	l.add(message("up/a", 2, 0), message("up/a", 2, 1))
	l.queue[0].stage = released
	start(t, testConfig(t, l, c.url()))
	eventually(t, "the end of both", func() bool {
		_, one := l.durable(1)
		_, two := l.durable(2)
		return !one && !two
	})
	if got := c.arrived("site/up/a"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("the cloud got %v, want the second message alone", got)
	}
}

// A cloud that may have the identifier of a message for another one forgets that first.
func TestStrangeIdentifiers(t *testing.T) {
	for _, version := range versions {
		l := newLedger(t, 0)
		c := newCloud(t, l)
		c.speak(dialect{version: version})
		c.session = true
		c.received[1], c.received[2] = true, true
		l.strange = true
		l.add(message("up/a", 2, 0), message("up/a", 2, 1), message("up/a", 1, 2))
		config := testConfig(t, l, c.url())
		config.Version = version
		start(t, config)
		eventually(t, "all of them", func() bool {
			_, open := l.durable(3)
			return !open && slices.Equal(c.arrived("site/up/a"), []string{"0", "1", "2"})
		})
	}
}

// A cloud that closes the connection because of one message is not tried for ever: the message is
// put aside, and what stood before and behind it is delivered.
func TestPoison(t *testing.T) {
	l := newLedger(t, 0)
	c := newCloud(t, l)
	c.reject = "site/up/poison"
	l.add(message("up/a", 1, 0), message("up/a", 1, 1), message("up/poison", 1, 2), message("up/a", 1, 3))
	var told strings.Builder
	config := testConfig(t, l, c.url())
	config.Log = slog.New(slog.NewTextHandler(&told, nil))
	b, stop := start(t, config)
	eventually(t, "the rest", func() bool { return slices.Equal(firsts(c.arrived("site/up/a")), []string{"0", "1", "3"}) })
	eventually(t, "an empty queue", func() bool { _, open := l.durable(3); return !open })
	if dead := l.published(DeadTopic("cloud") + "/up/poison"); !slices.Equal(dead, []string{"2"}) || b.State().Dead != 1 {
		t.Errorf("dead letters %v, state %+v", dead, b.State())
	}
	stop()
	if !strings.Contains(told.String(), `the cloud closes the connection whenever it is sent the message to \"up/poison\" (1 bytes, QoS 1)`) {
		t.Errorf("the log does not say which message it was:\n%s", &told)
	}
}

// A message that is larger than the bridge takes is acknowledged and counted, and does not come
// again; what stands behind it comes.
func TestOversizedMessageFromTheCloud(t *testing.T) {
	l := newLedger(t, 0)
	c := newCloud(t, l)
	config := testConfig(t, l, c.url())
	config.MaxPacket = 1000
	for id, qos := range []byte{1, 2, 1} {
		payload := strings.Repeat("x", 5000)
		if id == 2 {
			payload = "small"
		}
		c.down = append(c.down, &downward{id: uint16(id + 1), topic: "down/a", payload: payload, qos: qos, refused: id < 2})
	}
	b, _ := start(t, config)
	eventually(t, "the end of all three", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return !slices.ContainsFunc(c.down, func(d *downward) bool { return !d.done })
	})
	if got := l.published("local/down/a"); !slices.Equal(got, []string{"small"}) || b.State().Dropped != 2 {
		t.Errorf("published %d messages, state %+v", len(got), b.State())
	}
	if c.mu.Lock(); c.connections != 1 {
		t.Errorf("%d connections, want one", c.connections)
	}
	c.mu.Unlock()
}
