package packet

// A Disconnect is a DISCONNECT packet (clause 3.14). Before 5.0 it has no content.
type Disconnect struct {
	Reason           ReasonCode
	SessionExpiry    uint32 // client to server
	HasSessionExpiry bool
	ReasonString     string
	ServerReference  string
	User             []UserProperty
}

var disconnectAllowed = setOf(sessionExpiry, reasonString, userProperty, serverReference)

// Disconnect reads the body of a DISCONNECT. Who may send which property is a matter of the
// caller.
func (d *Decoder) Disconnect(body []byte) (Disconnect, error) {
	r := reader{b: body}
	var x Disconnect
	if d.v5() && len(r.b) > 0 {
		x.Reason = r.reason(DISCONNECT, "MQTT-3.14.2-1")
		if len(r.b) > 0 {
			x.readProperties(&r)
		}
	}
	if err := r.end(); err != nil {
		return Disconnect{}, err
	}
	return x, nil
}

func (x *Disconnect) readProperties(r *reader) {
	for p := r.properties(disconnectAllowed); p.next(); {
		switch p.id {
		case sessionExpiry:
			x.SessionExpiry, x.HasSessionExpiry = p.uint32(), true
		case reasonString:
			x.ReasonString = p.text()
		case userProperty:
			x.User = append(x.User, p.user())
		case serverReference:
			x.ServerReference = p.text()
		}
	}
}

// Append appends the packet to dst, in its shortest form. Before 5.0 it is empty.
func (x *Disconnect) Append(dst []byte, v Version) []byte {
	dst, place := open(dst, DISCONNECT)
	properties := x.HasSessionExpiry || x.ReasonString != "" || x.ServerReference != "" || len(x.User) > 0
	if v < V5 || x.Reason == Success && !properties {
		return dst
	}
	dst = append(dst, byte(x.Reason))
	if properties {
		at := len(dst)
		dst = append(dst, 0)
		dst = append32(dst, sessionExpiry, x.SessionExpiry, x.HasSessionExpiry)
		dst = appendTextProperty(dst, reasonString, x.ReasonString)
		dst = appendTextProperty(dst, serverReference, x.ServerReference)
		dst = appendUser(dst, x.User)
		dst = closeLength(dst, at)
	}
	return closeLength(dst, place)
}
