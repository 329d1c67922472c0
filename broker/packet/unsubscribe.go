package packet

// An Unsubscribe is an UNSUBSCRIBE packet (clause 3.10).
type Unsubscribe struct {
	ID      uint16
	Filters []string // at least one
	User    []UserProperty
}

// Unsubscribe reads the body of an UNSUBSCRIBE.
func (d *Decoder) Unsubscribe(body []byte) (Unsubscribe, error) {
	r := reader{b: body}
	u := Unsubscribe{ID: r.id()}
	if d.v5() {
		u.User = r.userProperties()
	}
	for len(r.b) > 0 {
		if len(u.Filters) == MaxFilters {
			r.fail(tooManyFilters())
			break
		}
		u.Filters = append(u.Filters, r.text("topic filter"))
	}
	if len(u.Filters) == 0 {
		r.fail(protocolError("MQTT-3.10.3-2", "UNSUBSCRIBE without a topic filter"))
	}
	if err := r.end(); err != nil {
		return Unsubscribe{}, err
	}
	return u, nil
}

// Append appends the packet to dst.
func (u *Unsubscribe) Append(dst []byte, v Version) []byte {
	dst, place := open(dst, UNSUBSCRIBE)
	dst = appendUint16(dst, u.ID)
	if v >= V5 {
		at := len(dst)
		dst = appendUser(append(dst, 0), u.User)
		dst = closeLength(dst, at)
	}
	for _, f := range u.Filters {
		dst = appendText(dst, f)
	}
	return closeLength(dst, place)
}
