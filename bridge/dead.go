package bridge

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"gateway/broker/packet"
)

// DeadTopic returns the local topic below which the dead letters of a bridge are published: the
// messages that the cloud can never take. A session of the same name keeps them.
func DeadTopic(bridge string) string { return "$dead/" + bridge }

// The names of the user properties of a dead letter.
const (
	DeadReasonProperty = "gateway-dead-reason" // why the cloud can never take it
	DeadTimeProperty   = "gateway-dead-at"     // since when that is known, RFC 3339
	DeadQoSProperty    = "gateway-dead-qos"    // its QoS; the letter itself has 1
	DeadRetainProperty = "gateway-dead-retain" // "1": it was to be retained
)

// A Letter is a dead letter that has been opened.
type Letter struct {
	Publish packet.Publish // as it was before
	Reason  string
	At      string // RFC 3339
}

// againPrefix begins the topics by which dead letters come back to a bridge while it runs: its strict
// session subscribes to them. They are the gateway's own, and nobody else can publish there.
func againPrefix(bridge string) string { return recordPrefix + bridge + "/again/" }

// Again makes of a dead letter of a bridge the message that gives it back: published to the local
// broker, it waits for the cloud behind all that waits there. ok is false if it is no dead letter.
func Again(bridge string, dead packet.Publish) (p packet.Publish, ok bool) {
	l, ok := OpenLetter(bridge, dead)
	if !ok {
		return packet.Publish{}, false
	}
	return packet.Publish{
		ID: dead.ID, QoS: max(l.Publish.QoS, 1), Topic: againPrefix(bridge) + l.Publish.Topic,
		Payload: dead.Payload, Properties: dead.Properties,
	}, true
}

// OpenLetter opens a dead letter of a bridge; ok is false if it is none.
func OpenLetter(bridge string, dead packet.Publish) (l Letter, ok bool) {
	return openLetter(DeadTopic(bridge)+"/", dead)
}

func openLetter(prefix string, dead packet.Publish) (l Letter, ok bool) {
	l.Publish = dead
	p := &l.Publish
	if p.Topic, ok = strings.CutPrefix(dead.Topic, prefix); !ok || dead.Properties == nil {
		return Letter{}, false
	}
	properties := *dead.Properties
	properties.User = nil
	for _, u := range dead.Properties.User {
		switch u.Name {
		case DeadReasonProperty:
			l.Reason = u.Value
		case DeadTimeProperty:
			l.At = u.Value
		case DeadQoSProperty:
			if u.Value == "2" {
				p.QoS = 2
			}
		case DeadRetainProperty:
			p.Retain = u.Value == "1"
		default:
			properties.User = append(properties.User, u)
		}
	}
	p.Properties = &properties
	return l, true
}

// Terms are what the cloud takes and knows on one connection. What CONNACK says of them is set
// before everything else.
type terms struct {
	welcome
	lost   bool       // the cloud has no session
	policy LostPolicy // for what may have arrived then
	poison uint16     // identifier of a message that the cloud closed connections for; 0: none
}

// never returns why the cloud can never take a message of a version, as far as it has said so; empty:
// it can. again: it may have been sent before.
func (t *terms) never(v packet.Version, p packet.Publish, again bool) string {
	switch size := p.Size(v); {
	case t.packet > 0 && size > t.packet:
		return fmt.Sprintf("a packet of %d bytes, the cloud takes %d", size, t.packet)
	case p.QoS > t.qos:
		return fmt.Sprintf("QoS %d, the cloud takes %d", p.QoS, t.qos)
	case p.Retain && t.noRetain:
		return "it is to be retained, and the cloud retains nothing"
	case again && p.QoS == 2 && t.lost && t.policy == DeadLetter:
		return "it may have arrived before the cloud lost its session"
	case p.ID != 0 && p.ID == t.poison:
		return "the cloud closes the connection whenever it is sent this message"
	}
	return ""
}

// bury puts a message that was not sent aside as a dead letter.
func (h *handover) bury(d *delivery, why string) {
	h.drops.dead(why, d.p.Topic)
	if d.p.QoS == 0 {
		if h.keepable(d) {
			h.inbox.Publish(letter(h.name, d.p, why), nil)
		}
		return
	}
	h.aside(d)
	h.lay(d, letter(h.name, d.p, why))
}

// lay publishes a dead letter, and ends its delivery when it is durable. A crash between the two
// makes a second letter.
func (h *handover) lay(d *delivery, letter packet.Publish) {
	if !h.keepable(d) {
		h.buried(d)
		return
	}
	h.laying.Add(1)
	h.inbox.Publish(letter, func(code packet.ReasonCode) {
		defer h.laying.Done()
		switch {
		case code.Failed() && !forGood(code):
			h.life.end(fmt.Errorf("%w: the broker cannot keep a message that the cloud refuses: %s", errLocal, code))
			return
		case code != packet.Success:
			h.drops.add("nobody keeps this dead letter: "+code.String(), d.p.Topic)
		}
		h.buried(d)
	})
}

// keepable reports whether there is a topic for a dead letter, and one for it to come back by. If
// there is none, the message is counted as dropped.
func (h *handover) keepable(d *delivery) bool {
	if fits(againPrefix(h.name) + d.p.Topic) {
		return true
	}
	h.drops.add("it cannot be put aside, its topic is too long for that", d.p.Topic)
	return false
}

// letter makes a dead letter of a message. It is sent at QoS 1: its identifier is none of the
// cloud's, which are the only ones that the inbox knows.
func letter(bridge string, p packet.Publish, why string) packet.Publish {
	return packet.Publish{QoS: 1, Topic: DeadTopic(bridge) + "/" + p.Topic, Payload: p.Payload, Properties: deadProperties(p, why)}
}

func deadProperties(p packet.Publish, why string) *packet.PublishProperties {
	var out packet.PublishProperties
	if p.Properties != nil {
		out = *p.Properties
	}
	out.TopicAlias, out.SubscriptionIDs = 0, nil
	out.MessageExpiry, out.HasMessageExpiry = 0, false // whoever looks for it finds it
	out.User = append(out.User[:len(out.User):len(out.User)],
		packet.UserProperty{Name: DeadReasonProperty, Value: why},
		packet.UserProperty{Name: DeadTimeProperty, Value: time.Now().UTC().Format(time.RFC3339)},
		packet.UserProperty{Name: DeadQoSProperty, Value: strconv.Itoa(int(p.QoS))})
	if p.Retain {
		out.User = append(out.User, packet.UserProperty{Name: DeadRetainProperty, Value: "1"})
	}
	return &out
}
