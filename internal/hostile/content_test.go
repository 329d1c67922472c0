package hostile

import (
	"fmt"
	"strings"

	"gateway/broker/packet"
)

// longTopics retain under, and subscribe to, the longest topics that there can be.
func longTopics(a *attack) {
	f := a.join(packet.V5, "long")
	long := func(i int) string { return fmt.Sprintf("%06d", i) + strings.Repeat("x", 65_000) }
	told := map[packet.ReasonCode]int{}
	for i := range 60 {
		p := publish(long(i), 1, 1, []byte("x"))
		p.Retain = true
		f.say(p)
		_, body, err := f.hear()
		if err != nil {
			a.t.Fatal(err)
		}
		ack, err := f.dec.Ack(packet.PUBACK, body)
		if err != nil {
			a.t.Fatal(err)
		}
		told[ack.Reason]++
	}
	if told[packet.QuotaExceeded] < 25 || told[packet.QuotaExceeded] > 45 {
		a.t.Errorf("4 MiB of topics are answered with %v, the limit is 2 MiB", told)
	}
	for i := range 60 {
		f.say(subscribe(0, long(i)+"s"))
	}
	f.wantTold(packet.QuotaExceeded)
	if n := a.lines("subscriptions are refused") + a.lines("retained messages are refused"); n != 2 {
		a.t.Errorf("%d lines tell of it, want 2", n)
	}
}

// tooLongTopics are beyond limits.topic_size.
func tooLongTopics(a *attack) {
	long := strings.Repeat("x", 65_000)
	f := a.join(packet.V5, "subscriber")
	f.say(subscribe(0, long))
	f.wantTold(packet.TopicFilterInvalid)
	f.say(publish(long, 0, 0, nil))
	f.wantTold(packet.TopicNameInvalid)
	_, reason := a.connect(packet.V5, packet.Connect{ClientID: "will", CleanStart: true, Will: &packet.Will{Topic: long[:2000]}})
	if reason != packet.TopicNameInvalid {
		a.t.Errorf("a will with a long topic: %s", reason)
	}
}

// deepTopics use all levels that there can be.
func deepTopics(a *attack) {
	for i := range 10 {
		f := a.join(packet.V5, name("deep", i))
		for j := range 100 {
			f.say(subscribe(0, fmt.Sprint(i, "-", j, strings.Repeat("/+/x", 63))))
		}
		if i == 9 {
			f.wantTold(packet.QuotaExceeded)
		}
	}
	f := a.join(packet.V5, "retainer")
	for i := range 200 {
		p := publish(fmt.Sprint(i, strings.Repeat("/x", 127)), 1, 1, []byte("x"))
		p.Retain = true
		f.say(p)
	}
	f.wantTold(packet.QuotaExceeded)
	f.say(publish(strings.Repeat("x/", 128), 0, 0, nil))
	for {
		reason, err := f.told()
		if err != nil || reason == packet.TopicNameInvalid {
			if err != nil {
				a.t.Errorf("a topic of 129 levels: %v", err)
			}
			return
		}
	}
}

// manyMatches subscribe to one topic in as many ways as there are, and publish to it.
func manyMatches(a *attack) {
	const levels = 12
	for i := range 20 {
		f := a.join(packet.V5, name("matcher", i))
		p := &packet.Subscribe{ID: 1}
		for j := range 100 {
			parts := make([]string, levels)
			for k := range parts {
				if parts[k] = "a"; (j*31+i*7+1)>>(k%10)&1 == 1 {
					parts[k] = "+"
				}
			}
			p.Filters = append(p.Filters, packet.Subscription{Filter: strings.Join(parts, "/")})
		}
		f.say(p)
		f.sync()
	}
	a.flood(strings.TrimSuffix(strings.Repeat("a/", levels), "/"), 2000, 10)
}

// subscriptionBombs subscribe to more than they may, a thousand filters at a time.
func subscriptionBombs(a *attack) {
	for i := range 20 {
		f := a.join(packet.V5, name("bomb", i))
		for j := range 2 { // as many as may come at once
			p := &packet.Subscribe{ID: 1}
			for k := range 1000 {
				p.Filters = append(p.Filters, packet.Subscription{Filter: fmt.Sprint(i, "/", j, "/+/", k, "/#"), QoS: 2})
			}
			f.say(p)
			f.wantTold(packet.QuotaExceeded)
		}
	}
	if a.counter("refused/subscriptions")+a.counter("refused/subscriptions_size") < 36_000 {
		a.t.Error("refused subscriptions are not counted")
	}
	if n := a.lines("subscriptions are refused"); n != 1 {
		a.t.Errorf("%d lines tell of it, want 1", n)
	}
}

// endlessRetained retain on more topics than there is room for.
func endlessRetained(a *attack) {
	f := a.join(packet.V5, "retainer")
	for i := range 10_000 {
		p := publish(name("endless", i), 0, 0, make([]byte, 100))
		p.Retain = true
		if !f.say(p) {
			a.t.Fatal("QoS 0 is not taken")
		}
	}
	f.sync()
	p := publish("one more", 1, 1, []byte("x"))
	p.Retain = true
	f.say(p)
	f.wantTold(packet.QuotaExceeded)
	if n := a.lines("retained messages are refused"); n != 1 {
		a.t.Errorf("%d lines tell of it, want 1", n)
	}
	if a.counter("refused/retained_size") < 5000 {
		a.t.Error("refused retained messages are not counted")
	}
}

// hugeProperties fill packets with user properties.
func hugeProperties(a *attack) {
	user := func(n, size int) (u []packet.UserProperty) {
		for range n {
			u = append(u, packet.UserProperty{Name: "n", Value: strings.Repeat("v", size)})
		}
		return u
	}
	sub := a.join(packet.V5, "subscriber")
	sub.say(subscribe(1, "p"))
	f := a.join(packet.V5, "publisher")
	for i := range 200 {
		p := publish("p", 1, 1, nil)
		p.Properties = &packet.PublishProperties{User: user(250, 200)}
		f.say(p)
		if i%50 == 0 {
			f.sync()
		}
	}
	p := publish("p", 0, 0, nil)
	p.Properties = &packet.PublishProperties{User: user(300, 0)}
	f.say(p)
	f.wantTold(packet.QuotaExceeded)
	_, reason := a.connect(packet.V5, packet.Connect{ClientID: "c", CleanStart: true, Properties: packet.ConnectProperties{User: user(300, 1)}})
	if reason != packet.QuotaExceeded {
		a.t.Errorf("a CONNECT with 300 properties: %s", reason)
	}
}

// neverReleased send one QoS 2 message after the other and no PUBREL.
func neverReleased(a *attack) {
	for i := range 10 {
		f := a.join(packet.V5, name("grasping", i))
		for id := range uint16(a.limits.ReceiveMaximum) + 1 {
			f.say(publish("x", 2, id+1, nil))
		}
		f.wantTold(packet.ReceiveMaximumExceeded)
	}
}

// neverReleasedBefore use all identifiers that there are, with the versions that have no Receive
// Maximum: a session remembers 65,535 of them and no more.
func neverReleasedBefore(a *attack) {
	f := a.join(packet.V311, "grasping")
	for id := uint16(1); id != 0; id++ {
		if !f.say(publish("x", 2, id, nil)) {
			a.t.Fatal("PUBLISH is not taken")
		}
		if id%50 == 0 {
			f.sync()
		}
	}
	f.sync()
}
