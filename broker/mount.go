package broker

import (
	"strings"

	"gateway/broker/packet"
	"gateway/broker/topic"
)

// A mount is the part of the topics in which the clients of a listener live: a prefix such as
// "site1/", which stands before each of their topics here and which they never see. Statistics,
// below $SYS/, are outside and the same for all; other topics that begin with $ they do not have.
//
// What other clients have published below the prefix reaches them under the rest of its topic. What
// has no such rest, as the topic "site1" that "site1/#" matches, does not reach them.
type mount string

const sys = "$SYS/"

// in returns the topic name that a client's topic name stands for.
func (m mount) in(name string) string { return string(m) + name }

// filter returns the topic filter that a client's topic filter stands for. One that is not valid
// stays so.
func (m mount) filter(f string) string {
	if m == "" || topic.ValidFilter(f) != nil {
		return f
	}
	_, rest, shared, _ := topic.ParseShared(f)
	if strings.HasPrefix(rest, sys) {
		return f
	}
	if shared {
		return strings.TrimSuffix(f, rest) + string(m) + rest
	}
	return string(m) + f
}

// out returns the topic name as the client knows it.
func (m mount) out(name string) (own string, ok bool) {
	if strings.HasPrefix(name, sys) {
		return name, true
	}
	own, ok = strings.CutPrefix(name, string(m))
	return own, ok && own != "" && own[0] != '$'
}

// id returns the client identifier by which a client's session is known: clients of different
// mounts may have the same one, and do not meet. It begins with $, which those of clients do not.
func (m mount) id(client string) string {
	if m == "" {
		return client
	}
	return mounted + string(m) + client
}

const mounted = "$mount/"

// receive decides about the topic of a client's message, and puts the message where it belongs. The
// error is a *packet.Error for a topic that the client may not have.
func (m mount) receive(l *Limits, name *string, x *packet.PublishProperties) error {
	if err := l.checkTopic(*name); err != nil || m == "" {
		return err
	}
	if (*name)[0] == '$' {
		return &packet.Error{Clause: "4.7.2", Reason: packet.NotAuthorized, Text: "topics that begin with $ are not for this listener's clients"}
	}
	*name = m.in(*name)
	if x != nil && x.ResponseTopic != "" {
		x.ResponseTopic = m.in(x.ResponseTopic)
	}
	return l.checkTopic(*name)
}

// send makes a message, a copy, one for a client. It reports false if it is none. A response topic
// that the client could not reach is left out.
func (m mount) send(p *packet.Publish) (ok bool) {
	if m == "" {
		return true
	}
	if p.Topic, ok = m.out(p.Topic); !ok {
		return false
	}
	if x := p.Properties; x != nil && x.ResponseTopic != "" {
		x.ResponseTopic, ok = m.out(x.ResponseTopic)
		if !ok || strings.HasPrefix(x.ResponseTopic, sys) {
			x.ResponseTopic = ""
		}
	}
	return true
}
