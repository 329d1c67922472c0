package conformance

import (
	"fmt"
	"testing"

	"gateway/broker/packet"
)

// aliased is a PUBLISH with a topic alias; an empty topic stands for the one it had.
func aliased(topic string, alias uint16, payload string) *packet.Publish {
	p := publish(topic, payload, 0, 0)
	p.Properties = &packet.PublishProperties{TopicAlias: alias}
	return p
}

// A client may give topics an alias, each up to the maximum of the server, and give it again.
func TestTopicAlias(t *testing.T) {
	v5(t, func(s *site) {
		sub := s.subscriber(kept("sub"), filter("+", 1))
		w := s.connect(clean("a"))
		n := w.connack.Properties.TopicAliasMaximum
		if n == 0 {
			s.lacks("the server takes no aliases")
		}
		for alias := uint16(1); alias <= n; alias++ {
			w.send(aliased(fmt.Sprint("t", alias), alias, "first"))
			sub.expect(fmt.Sprintf("PUBLISH t%d=first q0", alias))
		}
		for alias := n; alias >= 1; alias-- {
			w.send(aliased("", alias, "again"))
			sub.expect(fmt.Sprintf("PUBLISH t%d=again q0", alias))
		}
		w.send(aliased("new", n, "given again"), aliased("", n, "x"))
		sub.expect("PUBLISH new=given again q0", "PUBLISH new=x q0")
		// A queued message has its topic.
		sub.leave()
		p := aliased("", n, "queued")
		p.QoS, p.ID = 1, 1
		w.publish(p)
		s.connect(kept("sub")).take("PUBLISH new=queued q1")
	})
}

// An alias that is 0, above the maximum, or stands for nothing yet ends the connection. It lives no
// longer than that.
func TestBadTopicAlias(t *testing.T) {
	v5(t, func(s *site) {
		w := s.connect(kept("a"))
		n := w.connack.Properties.TopicAliasMaximum
		w.raw(frame(0x30, str("a")+props("\x23\x00\x00")))
		w.refused(packet.TopicAliasInvalid)
		w = s.connect(kept("a"))
		w.send(aliased("a", n+1, "x"))
		w.refused(packet.TopicAliasInvalid)
		if n == 0 {
			return
		}
		w = s.connect(kept("a"))
		w.send(aliased("a", 1, "x"))
		w.silent()
		w.leave()
		w = s.connect(kept("a"))
		w.send(aliased("", 1, "x"))
		w.refused(packet.ProtocolError, packet.TopicAliasInvalid)
	})
}

// The server uses as many aliases as a client allows, and they stand for what they should.
func TestTopicAliasOfServer(t *testing.T) {
	v5(t, func(s *site) {
		const n = 3
		c := kept("sub")
		c.Properties.TopicAliasMaximum = n
		sub := s.subscriber(c, filter("a-long-topic/+", 1))
		pub := s.connect(clean("pub"))
		for round := range 4 {
			for i := range n + 2 {
				topic := fmt.Sprintf("a-long-topic/%d", (i*i+round)%5)
				pub.publish(publish(topic, "x", packet.QoS(round%2), 1))
				sub.message(topic, n)
			}
		}
		// They end with the connection.
		sub.leave()
		pub.publish(publish("a-long-topic/1", "x", 1, 1))
		sub = s.connect(c)
		sub.message("a-long-topic/1", n)
		sub.leave()

		c.Properties.TopicAliasMaximum = 0
		sub = s.connect(c)
		for range 3 {
			pub.publish(publish("a-long-topic/1", "x", 1, 1))
			sub.message("a-long-topic/1", 0)
		}
	})
}

// message takes a message and looks at its alias.
func (w *wire) message(topic string, max uint16) {
	w.t.Helper()
	line := w.read()
	if want := fmt.Sprintf("PUBLISH %s=x q%d", topic, w.last.QoS); line != want && line != want+" alias" {
		w.t.Errorf("got %q, want %q", line, want)
	}
	if x := w.last.Properties; x != nil && x.TopicAlias > max {
		w.t.Errorf("topic alias %d, want %d at most", x.TopicAlias, max)
	}
	if w.last.QoS == 1 {
		w.send(ack(packet.PUBACK, w.id))
	}
}
