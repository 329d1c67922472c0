package broker_test

import (
	"fmt"
	"testing"

	"gateway/broker"
	"gateway/broker/packet"
)

// [MQTT-4.8.2-1..3]: each message goes to one member; those who are away are skipped while others
// are there.
func TestSharedSubscription(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	a, b := s.connect(packet.V5, clean("a")), s.connect(packet.V5, kept("b"))
	for _, w := range []*wire{a, b} {
		w.send(subscribe(1, filter("$share/g/d/+", 1)))
		w.expect("SUBACK 1…")
	}
	other := s.connect(packet.V5, clean("other"))
	other.send(subscribe(1, filter("d/#", 1), filter("$share/h/#", 1)))
	other.expect("SUBACK 1…")
	pub := s.connect(packet.V5, clean("pub"))
	n := 0
	send := func() string {
		t.Helper()
		n++
		pub.send(publish("d/x", fmt.Sprint(n), 1, uint16(n)))
		pub.expect(fmt.Sprintf("PUBACK %d", n))
		return fmt.Sprintf("PUBLISH d/x=%d q1", n)
	}
	first, second := send()+" id1", send()+" id1"
	// Round robin: one each, whoever begins.
	if got := a.read(); got == first {
		b.expect(second)
	} else {
		if got != second {
			t.Fatalf("got %q, want %q", got, second)
		}
		b.expect(first)
	}
	// The other's own subscription and its own group: two copies of each.
	for i := range 4 {
		other.expect(fmt.Sprintf("PUBLISH d/x=%d q1…", 1+i/2))
	}
	b.send(&packet.Disconnect{})
	b.expect("closed")
	for want := 2; want <= 4; want++ {
		a.expect(send() + fmt.Sprintf(" id%d", want))
	}
}

// What a member leaves unacknowledged goes to another one when its session ends, but not what it
// may have received at QoS 2 [MQTT-4.8.2-4], [MQTT-4.8.2-5].
func TestSharedSubscriptionHandsOn(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	leaver := s.connect(packet.V5, clean("leaver"))
	leaver.send(subscribe(1, filter("$share/g/d", 2)))
	leaver.expect("SUBACK 1…")
	pub := s.connect(packet.V5, clean("pub"))
	pub.send(publish("d", "once", 2, 1), publish("d", "again", 1, 2))
	pub.expect("PUBREC 1", "PUBACK 2")
	leaver.expect("PUBLISH d=once q2 id1", "PUBLISH d=again q1 id2")
	stayer := s.connect(packet.V5, clean("stayer"))
	stayer.send(subscribe(1, filter("$share/g/d", 2)))
	stayer.expect("SUBACK 1…")
	leaver.send(&packet.Disconnect{})
	stayer.expect("PUBLISH d=again q1 id1")
	stayer.silent()
}

// 3.3.2.3.4, [MQTT-3.3.2-8..12]: aliases in both directions, per connection.
func TestTopicAlias(t *testing.T) {
	s := start(t, nil, broker.Limits{TopicAliases: 2})
	c := kept("sub")
	c.Properties.TopicAliasMaximum = 10
	sub := s.connect(packet.V5, c)
	sub.send(subscribe(1, filter("#", 1)))
	sub.expect("SUBACK 1…")
	pub := s.connect(packet.V5, clean("pub"))
	with := func(topic string, alias uint16, qos packet.QoS, id uint16) *packet.Publish {
		p := publish(topic, "x", qos, id)
		p.Properties = &packet.PublishProperties{TopicAlias: alias}
		return p
	}
	pub.send(with("greenhouse/air", 1, 0, 0), with("", 1, 0, 0), with("greenhouse/soil", 1, 1, 7), with("", 1, 1, 8))
	pub.expect("PUBACK 7", "PUBACK 8")
	sub.expect("PUBLISH greenhouse/air=x q0 alias1", "PUBLISH =x q0 alias1", "PUBLISH greenhouse/soil=x q1 id1 alias2", "PUBLISH =x q1 id2 alias2")
	// A third topic takes the alias that was not used the longest.
	pub.send(with("greenhouse/door", 2, 0, 0), with("greenhouse/air", 2, 0, 0))
	sub.expect("PUBLISH greenhouse/door=x q0 alias1", "PUBLISH greenhouse/air=x q0 alias2")
	// What is sent again carries its topic: an alias ends with its connection.
	_ = sub.nc.Close()
	sub = s.dial(packet.V5)
	c.Properties.TopicAliasMaximum = 0
	sub.send(&c)
	sub.expect("CONNACK Success present", "PUBLISH greenhouse/soil=x q1 id1 dup", "PUBLISH greenhouse/soil=x q1 id2 dup")

	pub.send(with("", 3, 0, 0))
	pub.expect("DISCONNECT "+packet.TopicAliasInvalid.String(), "closed")
	pub = s.connect(packet.V5, clean("pub"))
	pub.send(with("", 1, 0, 0))
	pub.expect("DISCONNECT "+packet.ProtocolError.String(), "closed")
}

// A message of a shared subscription goes to a member that may receive it, whosever turn it is: first
// to those that are connected, then to those whose session keeps it.
func TestSharedSubscriptionSkips(t *testing.T) {
	open := start(t, nil, broker.Limits{})
	rules := &ban{denied: []string{"ann receive d/secret", "cid receive d/secret"}}
	s := open.listen(broker.Listener{Name: "test", Auth: named{}, Rules: rules})
	join := func(user string) *wire {
		c := kept(user)
		c.Username, c.HasUsername = user, true
		w := s.connect(packet.V5, c)
		w.send(subscribe(1, filter("$share/g/d/+", 1)))
		w.expect("SUBACK 1…")
		return w
	}
	ann, ben, cid := join("ann"), join("ben"), join("cid")
	pub := open.connect(packet.V5, clean("pub"))
	for qos := range packet.QoS(2) {
		for n := range uint16(4) {
			pub.send(publish("d/secret", fmt.Sprint(n), qos, n+1))
			if qos > 0 {
				pub.expect(fmt.Sprintf("PUBACK %d", n+1))
			}
			ben.expect(fmt.Sprintf("PUBLISH d/secret=%d q%d…", n, qos))
		}
	}
	ben.send(&packet.Disconnect{})
	ben.expect("closed")
	pub.send(publish("d/secret", "kept", 1, 20))
	pub.expect("PUBACK 20")
	ann.silent()
	cid.silent()
	c := kept("ben")
	c.Username, c.HasUsername = "ben", true
	ben = s.connect(packet.V5, c)
	for want := "PUBLISH d/secret=kept q1 id5"; ; {
		if got := ben.read(); got == want {
			break
		} else if got == "closed" || got == "nothing" {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}
