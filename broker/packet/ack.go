package packet

// An Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP packet (clauses 3.4 to 3.7).
type Ack struct {
	Type   Type
	ID     uint16
	Reason ReasonCode // 5.0 only
	// Reason String and User Properties, 5.0 only.
	ReasonString string
	User         []UserProperty
}

// Ack reads the body of a PUBACK, PUBREC, PUBREL or PUBCOMP, as t says.
func (d *Decoder) Ack(t Type, body []byte) (Ack, error) {
	r := reader{b: body}
	a := Ack{Type: t, ID: r.id()}
	if d.v5() && len(r.b) > 0 {
		a.Reason = r.reason(t, ackClauses[t])
		if len(r.b) > 0 {
			a.ReasonString, a.User = r.reasonProperties()
		}
	}
	if err := r.end(); err != nil {
		return Ack{}, err
	}
	return a, nil
}

// ackClauses name the statement about the reason codes of each packet type.
var ackClauses = [...]string{
	PUBACK: "MQTT-3.4.2-1", PUBREC: "MQTT-3.5.2-1", PUBREL: "MQTT-3.6.2-1", PUBCOMP: "MQTT-3.7.2-1",
}

// Append appends the packet to dst, in its shortest form. Before 5.0 there is no reason: the
// caller must not acknowledge a failure there.
func (a *Ack) Append(dst []byte, v Version) []byte {
	dst, place := open(dst, a.Type)
	dst = appendUint16(dst, a.ID)
	properties := a.ReasonString != "" || len(a.User) > 0
	if v >= V5 && (a.Reason != Success || properties) {
		dst = append(dst, byte(a.Reason))
		if properties {
			dst = appendReasonProperties(dst, a.ReasonString, a.User)
		}
	}
	return closeLength(dst, place)
}
