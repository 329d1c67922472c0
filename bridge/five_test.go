package bridge

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	packets5 "github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"gateway/broker/packet"
)

// five is a scripted cloud of 5.0 and the configuration of a bridge to it.
func five(t *testing.T, l *ledger, d dialect) (*cloud, Config) {
	c := newCloud(t, l)
	d.version = packet.V5
	c.speak(d)
	config := testConfig(t, l, c.url())
	config.Version = packet.V5
	return c, config
}

// done waits until nothing is left in the queue.
func (l *ledger) empty(t *testing.T) {
	t.Helper()
	eventually(t, "an empty queue", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return !slices.ContainsFunc(l.queue, func(e *entry) bool { return e.stage != finished })
	})
}

// The properties of a message arrive in the cloud, with what is left of its life, and with one more
// bridge in its count.
func TestPropertiesGoUp(t *testing.T) {
	l := newLedger(t, 0)
	seen := make(chan *packets5.Publish, 1)
	_, config := five(t, l, dialect{seen: func(p *packets5.Publish) { seen <- p }})
	m := message("up/a", 1, 7)
	m.Retain = true
	m.Properties = &packet.PublishProperties{
		PayloadFormat: 1, MessageExpiry: 90, HasMessageExpiry: true, ContentType: "text/plain",
		ResponseTopic: "answers", CorrelationData: []byte("c"), SubscriptionIDs: []uint32{3},
		User: []packet.UserProperty{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}, {Name: HopsProperty, Value: "2"}},
	}
	l.add(m)
	start(t, config)
	p := <-seen
	x := p.Properties
	if x.PayloadFormat == nil || *x.PayloadFormat != 1 || x.MessageExpiry == nil || *x.MessageExpiry != 90 ||
		x.ContentType != "text/plain" || x.ResponseTopic != "answers" || !bytes.Equal(x.CorrelationData, []byte("c")) ||
		x.SubscriptionIdentifier != nil || x.TopicAlias != nil || !p.Retain {
		t.Errorf("%v", p)
	}
	want := []packets5.User{{Key: "a", Value: "1"}, {Key: "a", Value: "2"}, {Key: HopsProperty, Value: "3"}}
	if !slices.Equal(x.User, want) {
		t.Errorf("user properties %v, want %v", x.User, want)
	}
	l.empty(t)
}

// A payload that is said to be of no format is one of which something is said [MQTT-3.3.2-4].
func TestUnspecifiedPayloadGoesUp(t *testing.T) {
	for _, p := range []packet.PublishProperties{{PayloadUnspecified: true}, {PayloadFormat: 1}} {
		if got := publishProperties(&p).PayloadFormat; got == nil || *got != p.PayloadFormat {
			t.Errorf("%+v goes up with payload format %v", p, got)
		}
	}
	if got := publishProperties(&packet.PublishProperties{}).PayloadFormat; got != nil {
		t.Errorf("a payload format %d from nowhere", *got)
	}
}

// What the cloud can never take is put aside with its reason, and does not stop the line.
func TestDeadLetters(t *testing.T) {
	const large = 2000
	l := newLedger(t, 0)
	c, config := five(t, l, dialect{
		connack: func(p *packets5.Properties) {
			most, qos, retain := uint32(large), byte(1), byte(0)
			p.MaximumPacketSize, p.MaximumQOS, p.RetainAvailable = &most, &qos, &retain
		},
		refuse: func(p *packets.PublishPacket) byte {
			if p.TopicName == "site/up/forbidden" {
				return byte(packet.NotAuthorized)
			}
			return 0
		},
	})
	big, kept := message("up/big", 1, 0), message("up/kept", 1, 2)
	big.Payload = bytes.Repeat([]byte("x"), large)
	kept.Retain = true
	kept.Properties = &packet.PublishProperties{User: []packet.UserProperty{{Name: "a", Value: "b"}}}
	exact := message("up/two", 2, 1)
	l.add(message("up/a", 1, 0), big, exact, kept, message("up/forbidden", 1, 3), message("up/a", 1, 1))
	b, _ := start(t, config)
	l.empty(t)
	eventually(t, "four dead letters", func() bool { return b.State().Dead == 4 })
	if got := c.arrived("site/up/a"); !slices.Equal(got, []string{"0", "1"}) {
		t.Errorf("the cloud got %v", got)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	reasons := make(map[string]string)
	for _, dead := range l.inbox {
		letter, ok := OpenLetter("cloud", dead)
		if !ok {
			continue
		}
		p := letter.Publish
		reasons[p.Topic] = letter.Reason
		if p.Topic == "up/two" && p.QoS != 2 {
			t.Errorf("the letter restores %+v", p)
		}
		if p.Topic == "up/kept" && (!p.Retain || !slices.Equal(p.Properties.User, kept.Properties.User)) {
			t.Errorf("the letter restores %+v %+v", p, p.Properties)
		}
	}
	for topic, want := range map[string]string{
		"up/big": "the cloud takes 2000", "up/two": "QoS 2, the cloud takes 1",
		"up/kept": "retains nothing", "up/forbidden": "the cloud refuses it: Not authorized",
	} {
		if !strings.Contains(reasons[topic], want) {
			t.Errorf("%s is dead because %q, want %q", topic, reasons[topic], want)
		}
	}
}

// At QoS 2 a PUBREC that says no ends the message: no PUBREL follows [MQTT-4.3.3-4].
func TestPubrecSaysNo(t *testing.T) {
	l := newLedger(t, 0)
	c, config := five(t, l, dialect{refuse: func(p *packets.PublishPacket) byte {
		if string(p.Payload) == "1" {
			return byte(packet.PayloadFormatInvalid)
		}
		return 0
	}})
	l.add(message("up/a", 2, 0), message("up/a", 2, 1), message("up/a", 2, 2))
	start(t, config)
	l.empty(t)
	if got := c.arrived("site/up/a"); !slices.Equal(got, []string{"0", "2"}) {
		t.Errorf("the cloud got %v", got)
	}
	if dead := l.published(DeadTopic("cloud") + "/up/a"); !slices.Equal(dead, []string{"1"}) {
		t.Errorf("dead letters %v", dead)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pubrels[2] != 0 || c.pubrels[1] == 0 || c.pubrels[3] == 0 {
		t.Errorf("PUBREL by identifier: %v", c.pubrels)
	}
}

// A cloud that has no room now gets the message again, on another connection.
func TestQuotaExceeded(t *testing.T) {
	l := newLedger(t, 0)
	var once sync.Once
	c, config := five(t, l, dialect{refuse: func(*packets.PublishPacket) (code byte) {
		once.Do(func() { code = byte(packet.QuotaExceeded) })
		return code
	}})
	l.add(message("up/a", 1, 0), message("up/b", 2, 0))
	b, _ := start(t, config)
	l.empty(t)
	if !slices.Equal(c.arrived("site/up/a"), []string{"0"}) || !slices.Equal(c.arrived("site/up/b"), []string{"0"}) || b.State().Dead != 0 {
		t.Errorf("the cloud got %v and %v, state %+v", c.arrived("site/up/a"), c.arrived("site/up/b"), b.State())
	}
}

// No more is in flight than the cloud says that it takes, whatever the window is.
func TestReceiveMaximum(t *testing.T) {
	l := newLedger(t, 0)
	c, config := five(t, l, dialect{connack: func(p *packets5.Properties) {
		most := uint16(5)
		p.ReceiveMaximum = &most
	}})
	c.hold = true
	for i := range 50 {
		l.add(message("up/a", packet.QoS(1+i%2), i))
	}
	config.Window = 40
	start(t, config)
	flying := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.maxInFlight
	}
	eventually(t, "a full window", func() bool { return flying() >= 5 })
	l.add(message("up/zero", 0, 1))
	if n := flying(); n != 5 {
		t.Errorf("%d messages in flight, the cloud takes 5", n)
	}
}

// What may have arrived before the cloud lost its session is sent again, or put aside, as the
// policy says. What was never sent is sent.
func TestLostSessionPolicy(t *testing.T) {
	for policy, want := range map[LostPolicy][]string{Resend: {"0", "1", "2"}, DeadLetter: {"1", "2"}} {
		l := newLedger(t, 0)
		c, config := five(t, l, dialect{})
		config.LostSession = policy
		l.add(message("up/a", 2, 0), message("up/a", 1, 1), message("up/a", 2, 2))
		l.queue[0].returned, l.queue[1].returned = true, true
		start(t, config)
		l.empty(t)
		if got := c.arrived("site/up/a"); !slices.Equal(got, want) {
			t.Errorf("policy %d: the cloud got %v, want %v", policy, got, want)
		}
		if dead := l.published(DeadTopic("cloud") + "/up/a"); len(dead)+len(want) != 3 {
			t.Errorf("policy %d: dead letters %v", policy, dead)
		}
	}
}

// A filter whose rule has gone is unsubscribed on both sides when the bridge begins.
func TestRulesThatHaveGone(t *testing.T) {
	for _, version := range versions {
		l := newLedger(t, 0)
		c := newCloud(t, l)
		c.speak(dialect{version: version})
		config := testConfig(t, l, c.url())
		config.Version = version
		config.Rules = append(config.Rules[:2:2],
			Rule{Direction: Out, Filter: "old/#", QoS: 1}, Rule{Direction: In, Filter: "gone/+", LocalPrefix: "local/", QoS: 1})
		b, stop := start(t, config)
		eventually(t, "a connection", func() bool { return b.State().State == Connected })
		stop()

		config.Rules = everything
		b, _ = start(t, config)
		eventually(t, "a connection without the rules", func() bool { return b.State().State == Connected })
		c.mu.Lock()
		if !slices.Equal(c.unsubscribed, []string{"gone/+"}) {
			t.Errorf("version %d: unsubscribed in the cloud: %v", version, c.unsubscribed)
		}
		c.mu.Unlock()
		var local []string
		l.mu.Lock()
		for _, s := range l.subs {
			local = append(local, s.Filter)
		}
		l.mu.Unlock()
		slices.Sort(local)
		if want := []string{"$bridge/cloud/again/#", "$bridge/cloud/asked/down/#", "up/#"}; !slices.Equal(local, want) {
			t.Errorf("version %d: the session subscribes to %v, want %v", version, local, want)
		}
	}
}

// A message that has come over too many bridges ends here, counted.
func TestTooManyHops(t *testing.T) {
	l := newLedger(t, 0)
	c, config := five(t, l, dialect{})
	around := message("up/a", 1, 0)
	around.Properties = &packet.PublishProperties{User: []packet.UserProperty{{Name: HopsProperty, Value: "4"}}}
	l.add(around, message("up/a", 1, 1))
	b, _ := start(t, config)
	l.empty(t)
	if got := c.arrived("site/up/a"); !slices.Equal(got, []string{"1"}) || b.State().Dropped != 1 {
		t.Errorf("the cloud got %v, state %+v", got, b.State())
	}
}

// A dead letter that is given back while the bridge runs goes to the cloud as what it was.
func TestDeadLetterAgain(t *testing.T) {
	l := newLedger(t, 0)
	seen := make(chan *packets5.Publish, 1)
	c, config := five(t, l, dialect{seen: func(p *packets5.Publish) { seen <- p }})
	m := message("up/a", 2, 7)
	m.Retain = true
	m.Properties = &packet.PublishProperties{ContentType: "text/plain", User: []packet.UserProperty{{Name: "a", Value: "1"}}}
	p, ok := Again("cloud", letter("cloud", m, "too large"))
	if _, other := Again("other", letter("cloud", m, "too large")); !ok || other || p.Retain || p.QoS != 2 {
		t.Fatalf("%t, %t, %+v", ok, other, p)
	}
	l.add(p)
	start(t, config)
	got := <-seen
	want := []packets5.User{{Key: "a", Value: "1"}, {Key: HopsProperty, Value: "1"}}
	if got.Topic != "site/up/a" || got.QoS != 2 || !got.Retain || got.Properties.ContentType != "text/plain" || !slices.Equal(got.Properties.User, want) {
		t.Errorf("%v", got)
	}
	l.empty(t)
	if got := c.arrived("site/up/a"); !slices.Equal(got, []string{"7"}) {
		t.Errorf("the cloud got %v", got)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.ContainsFunc(l.subs, func(s packet.Subscription) bool { return s.Filter == "$bridge/cloud/again/#" && s.QoS == 2 }) {
		t.Errorf("the session subscribes to %v", l.subs)
	}
}

// A connection that ends while a dead letter is on its way to the disk makes no second one.
func TestLetterOfLostConnection(t *testing.T) {
	l := newLedger(t, 20*time.Millisecond)
	c, config := five(t, l, dialect{refuse: func(p *packets.PublishPacket) byte {
		if p.TopicName == "site/up/closed" {
			return byte(packet.NotAuthorized)
		}
		return 0
	}})
	c.mu.Lock()
	c.cuts = []int{6} // CONNECT, CONNACK, SUBSCRIBE, SUBACK, PUBLISH and its PUBREC
	c.mu.Unlock()
	l.add(message("up/closed", 2, 0), message("up/a", 2, 1))
	start(t, config)
	l.empty(t)
	if got := l.published(DeadTopic("cloud") + "/up/closed"); !slices.Equal(got, []string{"0"}) {
		t.Errorf("dead letters %v", got)
	}
	if got := c.arrived("site/up/a"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("the cloud got %v", got)
	}
}

// A topic that is too long for a dead letter's ends with its message, counted.
func TestTopicTooLongForLetter(t *testing.T) {
	l := newLedger(t, 0)
	c, config := five(t, l, dialect{refuse: func(p *packets.PublishPacket) byte {
		if len(p.TopicName) > 100 {
			return byte(packet.NotAuthorized)
		}
		return 0
	}})
	long := "up/" + strings.Repeat("a", 65_535-len("site/up/"))
	l.add(message(long, 2, 0), message("up/a", 1, 1))
	b, _ := start(t, config)
	l.empty(t)
	if s := b.State(); s.Dropped != 1 {
		t.Errorf("state %+v", s)
	}
	if got := c.arrived("site/up/a"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("the cloud got %v", got)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.inbox {
		if strings.HasPrefix(p.Topic, "$dead/") {
			t.Errorf("a dead letter with a topic of %d bytes", len(p.Topic))
		}
	}
}
