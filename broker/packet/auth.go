package packet

// An Auth is an AUTH packet (5.0, 3.15).
type Auth struct {
	Reason       ReasonCode
	Method       string
	Data         []byte
	ReasonString string
	User         []UserProperty
}

var authAllowed = setOf(authMethod, authData, reasonString, userProperty)

// Auth reads the body of an AUTH. Only the empty packet, which means Success, comes without
// Authentication Method (5.0, 3.15.2.1 and 3.15.2.2.2).
func (d *Decoder) Auth(body []byte) (Auth, error) {
	if !d.v5() {
		return Auth{}, malformed("2.1.2", "AUTH before 5.0")
	}
	if len(body) == 0 {
		return Auth{}, nil
	}
	r := reader{b: body}
	a := Auth{Reason: r.reason(AUTH, "MQTT-3.15.2-1")}
	p := r.properties(authAllowed)
	for p.next() {
		switch p.id {
		case authMethod:
			a.Method = p.text()
		case authData:
			a.Data = p.binary()
		case reasonString:
			a.ReasonString = p.text()
		case userProperty:
			a.User = append(a.User, p.user())
		}
	}
	if !p.has(authMethod) {
		r.fail(protocolError("3.15.2.2.2", "AUTH without Authentication Method"))
	}
	if err := r.end(); err != nil {
		return Auth{}, err
	}
	return a, nil
}

// Append appends the packet to dst. It exists since 5.0 only, whatever v says.
func (a *Auth) Append(dst []byte, _ Version) []byte {
	dst, place := open(dst, AUTH)
	if a.Reason == Success && a.Method == "" && a.Data == nil && a.ReasonString == "" && len(a.User) == 0 {
		return dst
	}
	dst = append(dst, byte(a.Reason))
	at := len(dst)
	dst = append(dst, 0)
	dst = appendText(append(dst, byte(authMethod)), a.Method)
	dst = appendBinaryProperty(dst, authData, a.Data)
	dst = appendTextProperty(dst, reasonString, a.ReasonString)
	dst = appendUser(dst, a.User)
	return closeLength(closeLength(dst, at), place)
}
