package packet

import "strings"

// MaxFilters is the largest number of topic filters that a decoder accepts in one packet. What
// is beyond is refused with QuotaExceeded.
const MaxFilters = 1024

// A Subscribe is a SUBSCRIBE packet (clause 3.8).
type Subscribe struct {
	ID             uint16
	Filters        []Subscription // at least one
	SubscriptionID uint32         // 0: none
	User           []UserProperty
}

// A Subscription is one topic filter with its options (5.0, 3.8.3.1).
type Subscription struct {
	Filter            string // as sent, "$share/group/..." included
	QoS               QoS    // maximum QoS
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0: send at subscribe, 1: send if new, 2: do not send
}

var subscribeAllowed = setOf(subscriptionID, userProperty)

// Subscribe reads the body of a SUBSCRIBE. Whether a filter is valid is for package topic to say.
func (d *Decoder) Subscribe(body []byte) (Subscribe, error) {
	r := reader{b: body}
	s := Subscribe{ID: r.id()}
	if d.v5() {
		for p := r.properties(subscribeAllowed); p.next(); {
			switch p.id {
			case subscriptionID:
				s.SubscriptionID = p.subscriptionID()
			case userProperty:
				s.User = append(s.User, p.user())
			}
		}
	}
	for len(r.b) > 0 {
		if len(s.Filters) == MaxFilters {
			r.fail(tooManyFilters())
			break
		}
		s.Filters = append(s.Filters, readSubscription(&r, d.Version))
	}
	if len(s.Filters) == 0 {
		r.fail(protocolError("MQTT-3.8.3-2", "SUBSCRIBE without a topic filter"))
	}
	if err := r.end(); err != nil {
		return Subscribe{}, err
	}
	return s, nil
}

func tooManyFilters() *Error {
	return &Error{Clause: "4.13.2", Reason: QuotaExceeded, Text: "too many topic filters", Limit: "filters"}
}

// readSubscription reads a topic filter and its options (clause 3.8.3.1).
func readSubscription(r *reader, v Version) Subscription {
	s := Subscription{Filter: r.text("topic filter")}
	o := r.byte("Subscription Options")
	reserved := byte(0b1111_1100)
	if v >= V5 {
		reserved = 0b1100_0000
		s.NoLocal = o&0b100 != 0
		s.RetainAsPublished = o&0b1000 != 0
		s.RetainHandling = o >> 4 & 3
	}
	if v == V31 {
		reserved = 0 // those bits are not used (3.1, 3.8)
	}
	s.QoS = QoS(o & 3)
	switch {
	case o&reserved != 0:
		r.fail(malformed("MQTT-3.8.3-5", "reserved bits of the Subscription Options are set"))
	case s.QoS == 3:
		r.fail(protocolError("3.8.3.1", "Maximum QoS is 3"))
	case s.RetainHandling == 3:
		r.fail(protocolError("3.8.3.1", "Retain Handling is 3"))
	case s.NoLocal && strings.HasPrefix(s.Filter, "$share/"):
		r.fail(protocolError("MQTT-3.8.3-4", "No Local on a Shared Subscription"))
	}
	return s
}

// Append appends the packet to dst. Before 5.0 a filter has no options but its QoS.
func (s *Subscribe) Append(dst []byte, v Version) []byte {
	dst, place := open(dst, SUBSCRIBE)
	dst = appendUint16(dst, s.ID)
	if v >= V5 {
		at := len(dst)
		dst = append(dst, 0)
		if s.SubscriptionID != 0 {
			dst = appendVarint(append(dst, byte(subscriptionID)), s.SubscriptionID)
		}
		dst = appendUser(dst, s.User)
		dst = closeLength(dst, at)
	}
	for i := range s.Filters {
		f := &s.Filters[i]
		dst = append(appendText(dst, f.Filter), f.options(v))
	}
	return closeLength(dst, place)
}

func (s *Subscription) options(v Version) byte {
	o := byte(s.QoS)
	if v < V5 {
		return o
	}
	if s.NoLocal {
		o |= 0b100
	}
	if s.RetainAsPublished {
		o |= 0b1000
	}
	return o | s.RetainHandling<<4
}
