package broker

import (
	"fmt"

	"gateway/broker/packet"
)

// aliasesIn are the topics that a client has given an alias (5.0, 3.3.2.3.4). They live as long as
// the connection.
type aliasesIn struct {
	topics []string // by alias, from 1
	bytes  int32    // of them
	most   int32    // see Limits.AliasBytes
	max    uint16
}

// resolve puts the topic into a PUBLISH that has an alias, and remembers it if it is there
// already [MQTT-3.3.2-9], [MQTT-3.3.2-12].
func (a *aliasesIn) resolve(p *packet.Publish) error {
	alias := p.Properties.TopicAlias
	if alias > a.max {
		return &packet.Error{Clause: "MQTT-3.2.2-18", Reason: packet.TopicAliasInvalid, Text: "topic alias above the maximum"}
	}
	if p.Topic != "" {
		if len(a.topics) < int(alias) {
			a.topics = append(a.topics, make([]string, int(alias)-len(a.topics))...)
		}
		if a.bytes += int32(len(p.Topic) - len(a.topics[alias-1])); a.bytes > a.most {
			return &packet.Error{Clause: "4.13.2", Reason: packet.QuotaExceeded, Text: fmt.Sprintf("the topics with an alias have more bytes than limits.topic_aliases_size, which is %d", a.most), Limit: "topic_aliases_size"}
		}
		a.topics[alias-1] = p.Topic
		return nil
	}
	if int(alias) > len(a.topics) || a.topics[alias-1] == "" {
		return &packet.Error{Clause: "3.3.4", Reason: packet.ProtocolError, Text: "a topic alias that stands for nothing yet"}
	}
	p.Topic = a.topics[alias-1]
	return nil
}

// aliasesOut are the aliases that the server has given topics for one client. The alias of the
// topic that was used the longest ago goes to the next new one. They live as long as the
// connection, and no stored message has one.
type aliasesOut struct {
	max    uint16 // 0: the client takes none
	most   int32  // see Limits.AliasBytes
	clock  uint64
	topics map[string]*aliasOut
}

type aliasOut struct {
	alias uint16
	used  uint64
}

// aliasTopic is the shortest topic that is worth an alias, in bytes: the property takes three.
const aliasTopic = 8

// aliasSize is how many bytes an alias may add to a packet.
const aliasSize = 4

// replace puts an alias in the place of the topic of p, whose properties are its own. The first
// time the topic stays beside its alias. What is replaced must be sent.
func (a *aliasesOut) replace(p *packet.Publish) {
	if a.max == 0 || len(p.Topic) < aliasTopic || len(p.Topic) > int(a.most)/int(a.max) {
		return
	}
	if p.Properties == nil {
		p.Properties = new(packet.PublishProperties)
	}
	a.clock++
	known, ok := a.topics[p.Topic]
	if !ok {
		known = a.assign(p.Topic)
	}
	known.used, p.Properties.TopicAlias = a.clock, known.alias
	if ok {
		p.Topic = ""
	}
}

// assign gives a topic an alias: a new one, or that of the topic used the longest ago.
func (a *aliasesOut) assign(topic string) *aliasOut {
	if a.topics == nil {
		a.topics = make(map[string]*aliasOut)
	}
	if len(a.topics) < int(a.max) {
		n := &aliasOut{alias: uint16(len(a.topics) + 1)}
		a.topics[topic] = n
		return n
	}
	var oldest string
	var found *aliasOut
	for t, o := range a.topics {
		if found == nil || o.used < found.used {
			oldest, found = t, o
		}
	}
	delete(a.topics, oldest)
	a.topics[topic] = found
	return found
}
