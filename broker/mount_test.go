package broker_test

import (
	"net"
	"testing"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/packet"
)

// mounted adds a listener with a prefix to a site and returns the site as its clients see it.
func (s *site) mounted(prefix string) *site {
	s.t.Helper()
	return s.listen(broker.Listener{Name: prefix, Prefix: prefix})
}

// listen adds a listener to a site and returns the site as its clients see it.
func (s *site) listen(l broker.Listener) *site {
	s.t.Helper()
	if l.Auth == nil {
		l.Auth = auth.Anonymous{}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(ln, l) }()
	s.t.Cleanup(func() {
		s.stop()
		if err := <-served; err != nil {
			s.t.Errorf("Serve: %v", err)
		}
	})
	return &site{t: s.t, server: s.server, store: s.store, address: ln.Addr().String()}
}

// TestMount sends messages between clients inside and outside of prefixes.
func TestMount(t *testing.T) {
	all := start(t, nil, broker.Limits{})
	a, b := all.mounted("site/a/"), all.mounted("site/b/")
	whole := all.connect(packet.V5, clean("whole"))
	whole.send(subscribe(1, filter("#", 1)))
	whole.expect("SUBACK 1 [Granted QoS 1]")
	first := a.connect(packet.V5, clean("device"))
	first.send(subscribe(1, filter("#", 1)))
	first.expect("SUBACK 1 [Granted QoS 1]")
	second := b.connect(packet.V5, clean("device")) // the same client identifier, another client
	second.send(subscribe(1, filter("+/air", 1)))
	second.expect("SUBACK 1 [Granted QoS 1]")

	first.send(publish("house/air", "1", 1, 1))
	first.expect("PUBLISH house/air=1 q1 id1", "PUBACK 1")
	whole.expect("PUBLISH site/a/house/air=1 q1 id1")
	second.silent()

	whole.send(publish("site/b/house/air", "2", 0, 0), publish("house/air", "3", 0, 0), publish("site/a", "4", 0, 0),
		publish("site/a/", "5", 0, 0), publish("site/a/$x/y", "6", 0, 0), publish("site/a//z", "7", 0, 0))
	second.expect("PUBLISH house/air=2 q0")
	second.silent()
	first.expect("PUBLISH /z=7 q0") // the topics between have no name that a client could use
	first.silent()

	outside := all.connect(packet.V5, clean("outside"))
	outside.send(publish("site/a", "4", 1, 1))
	outside.expect("PUBACK 1")
	first.silent()
	if n := all.server.Stats().TooLarge.Load(); n != 0 {
		t.Errorf("%d messages are counted as too large that have no name in the prefix", n)
	}

	first.send(&packet.Unsubscribe{ID: 2, Filters: []string{"#", "house/#"}})
	first.expect("UNSUBACK 2 [Success No subscription existed]")
	whole.send(publish("site/a/x", "8", 0, 0))
	first.silent()
}

// TestMountSys shows the statistics to all, and keeps what else begins with $ apart.
func TestMountSys(t *testing.T) {
	all := start(t, nil, broker.Limits{})
	a := all.mounted("site/a/")
	c := a.connect(packet.V5, clean("device"))
	c.send(subscribe(1, filter("$SYS/broker/version", 0), filter("$share/g/$SYS/broker/uptime", 0), filter("$x/#", 0)))
	c.expect("SUBACK 1 [Success Success Success]", "PUBLISH $SYS/broker/version=test q0 retain")
	c.send(publish("$x/y", "1", 1, 1), publish("$SYS/x", "1", 1, 2))
	c.expect("PUBACK 1 Not authorized", "PUBACK 2 Not authorized")
	whole := all.connect(packet.V5, clean("whole"))
	whole.send(publish("$x/y", "1", 0, 0))
	whole.silent()
	c.silent()
	for _, bad := range []string{"", "a/#/b", "a+", "$share/g", "$share/g/"} {
		c.send(subscribe(2, filter(bad, 0)))
		c.expect("SUBACK 2 [Topic Filter invalid]")
	}
	c.send(publish("a/+", "1", 0, 0))
	c.expect("DISCONNECT Topic Name invalid", "closed")
}

// TestMountKeeps finds retained messages, wills, shared subscriptions, aliases and response topics
// in their place, and a session with its queue after a restart.
func TestMountKeeps(t *testing.T) {
	store := newMemory()
	t.Cleanup(store.close)
	all := start(t, store, broker.Limits{})
	a, b := all.mounted("site/a/"), all.mounted("site/b/")

	dying := a.connect(packet.V5, packet.Connect{ClientID: "dying", CleanStart: true, Will: &packet.Will{
		Topic: "gone", Payload: []byte("x"), Retain: true, Properties: &packet.PublishProperties{ResponseTopic: "why"},
	}})
	keeper := a.connect(packet.V5, kept("keeper"))
	keeper.send(subscribe(1, filter("q/#", 1), filter("$share/g/job", 1)))
	keeper.expect("SUBACK 1 [Granted QoS 1 Granted QoS 1]")
	other := b.connect(packet.V5, kept("keeper"))
	other.send(subscribe(1, filter("q/#", 1), filter("$share/g/job", 1)))
	other.expect("SUBACK 1 [Granted QoS 1 Granted QoS 1]")

	pub := a.connect(packet.V5, clean("pub"))
	for i, payload := range []string{"1", "2"} {
		m := publish("job", payload, 0, 0)
		m.Properties = &packet.PublishProperties{TopicAlias: 1}
		if i > 0 {
			m.Topic = ""
		}
		pub.send(m)
		keeper.expect("PUBLISH job=" + payload + " q0")
	}
	other.silent()

	watch := a.connect(packet.V5, clean("watch"))
	watch.send(subscribe(1, filter("gone", 0)))
	watch.expect("SUBACK 1 [Success]")
	_ = dying.nc.Close()
	watch.expect("PUBLISH gone=x q0 response:why")
	watch.send(subscribe(2, filter("gone", 0)))
	watch.expect("SUBACK 2 [Success]", "PUBLISH gone=x q0 retain response:why")
	whole := all.connect(packet.V5, clean("whole"))
	whole.send(subscribe(1, filter("site/+/gone", 0)))
	whole.expect("SUBACK 1 [Success]", "PUBLISH site/a/gone=x q0 retain response:site/a/why")

	_ = keeper.nc.Close()
	_ = other.nc.Close()
	pub.send(publish("q/1", "kept", 1, 1))
	pub.expect("PUBACK 1")
	all.stop()

	again := start(t, store, broker.Limits{})
	back := again.mounted("site/a/").again(packet.V5, kept("keeper"))
	back.expect("PUBLISH q/1=kept q1 id1…")
	otherBack := again.mounted("site/b/").again(packet.V5, kept("keeper"))
	otherBack.silent()
	stranger := again.connect(packet.V5, kept("keeper"))
	stranger.silent()
}

// TestMountResponse translates response topics, and leaves out one that cannot be reached.
func TestMountResponse(t *testing.T) {
	all := start(t, nil, broker.Limits{})
	a := all.mounted("site/a/")
	inside := a.connect(packet.V5, clean("inside"))
	inside.send(subscribe(1, filter("ask", 0)))
	inside.expect("SUBACK 1 [Success]")
	whole := all.connect(packet.V5, clean("whole"))
	whole.send(subscribe(1, filter("site/a/ask", 0)))
	whole.expect("SUBACK 1 [Success]")
	ask := func(w *wire, topic, response string) {
		m := publish(topic, "?", 0, 0)
		m.Properties = &packet.PublishProperties{ResponseTopic: response}
		w.send(m)
	}
	ask(inside, "ask", "answer/1")
	inside.expect("PUBLISH ask=? q0 response:answer/1")
	whole.expect("PUBLISH site/a/ask=? q0 response:site/a/answer/1")
	ask(whole, "site/a/ask", "site/a/answer/2")
	inside.expect("PUBLISH ask=? q0 response:answer/2")
	whole.expect("PUBLISH site/a/ask=? q0 response:site/a/answer/2")
	ask(whole, "site/a/ask", "answer/3")
	inside.expect("PUBLISH ask=? q0")
	whole.expect("PUBLISH site/a/ask=? q0 response:answer/3")
}
