package packet

// A Suback is a SUBACK (clause 3.9) or UNSUBACK packet (clause 3.11). Reasons has one code per
// filter, in order; a 3.1.1 UNSUBACK has none on the wire.
type Suback struct {
	Type         Type
	ID           uint16
	Reasons      []ReasonCode
	ReasonString string
	User         []UserProperty
}

// Suback reads the body of a SUBACK or UNSUBACK, as t says.
func (d *Decoder) Suback(t Type, body []byte) (Suback, error) {
	r := reader{b: body}
	s := Suback{Type: t, ID: r.id()}
	if d.v5() {
		s.ReasonString, s.User = r.reasonProperties()
	}
	if t == SUBACK || d.v5() {
		s.readReasons(&r, d.Version)
	}
	if err := r.end(); err != nil {
		return Suback{}, err
	}
	return s, nil
}

func (s *Suback) readReasons(r *reader, v Version) {
	clause := "MQTT-3.9.3-2"
	if s.Type == UNSUBACK {
		clause = "MQTT-3.11.3-2"
	}
	switch {
	case r.err != nil:
		return
	case len(r.b) == 0:
		r.fail(protocolError(clause, s.Type.String()+" without a reason code"))
		return
	case len(r.b) > MaxFilters:
		r.fail(tooManyFilters())
		return
	}
	s.Reasons = make([]ReasonCode, 0, len(r.b))
	for len(r.b) > 0 {
		code := r.reason(s.Type, clause)
		if v < V5 && code > GrantedQoS2 && code != UnspecifiedError {
			r.fail(protocolError("3.1.1 MQTT-3.9.3-2", "return code is reserved"))
		}
		s.Reasons = append(s.Reasons, code)
	}
}

// Append appends the packet to dst. Before 5.0 a failure is written as 0x80, and UNSUBACK has
// no reasons. In 3.1 what is not authorized is acknowledged like the rest (3.1, 3.8), at QoS 0.
func (s *Suback) Append(dst []byte, v Version) []byte {
	dst, place := open(dst, s.Type)
	dst = appendUint16(dst, s.ID)
	if v >= V5 {
		dst = appendReasonProperties(dst, s.ReasonString, s.User)
	} else if s.Type == UNSUBACK {
		return closeLength(dst, place)
	}
	for _, code := range s.Reasons {
		switch {
		case v == V31 && code == NotAuthorized:
			code = Success
		case v < V5 && code.Failed():
			code = UnspecifiedError
		}
		dst = append(dst, byte(code))
	}
	return closeLength(dst, place)
}
