package packet

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

// A Suback is a SUBACK (clause 3.9) or UNSUBACK packet (clause 3.11). Reasons has one code per
// filter, in order; a 3.1.1 UNSUBACK has none on the wire.
type Suback struct {
	Type         Type
	ID           uint16
	Reasons      []ReasonCode
	ReasonString string
	User         []UserProperty
}

// An Unsubscribe is an UNSUBSCRIBE packet (clause 3.10).
type Unsubscribe struct {
	ID      uint16
	Filters []string // at least one
	User    []UserProperty
}
