package session

// An Inbox is the incoming side of a session at QoS 2: the packet identifiers of messages that
// were taken and not yet released. Its zero value is empty. It is not safe for concurrent use.
type Inbox struct {
	ids map[uint16]struct{}
}

// RestoredInbox returns the inbox that a summary tells of.
func RestoredInbox(s *Summary) Inbox {
	var in Inbox
	for _, id := range s.Received {
		in.Receive(id)
	}
	return in
}

// Receive takes an identifier and reports whether it is new. One that is not belongs to a
// repetition, and must not start another delivery [MQTT-4.3.3-10].
func (in *Inbox) Receive(id uint16) bool {
	if _, known := in.ids[id]; known {
		return false
	}
	if in.ids == nil {
		in.ids = make(map[uint16]struct{})
	}
	in.ids[id] = struct{}{}
	return true
}

// Release forgets an identifier and reports whether it was known.
func (in *Inbox) Release(id uint16) bool {
	_, known := in.ids[id]
	delete(in.ids, id)
	return known
}

// Has reports whether an identifier is taken.
func (in *Inbox) Has(id uint16) bool {
	_, known := in.ids[id]
	return known
}

// Len returns how many identifiers are taken.
func (in *Inbox) Len() int { return len(in.ids) }

// IDs returns the identifiers taken, in no order.
func (in *Inbox) IDs() []uint16 {
	ids := make([]uint16, 0, len(in.ids))
	for id := range in.ids {
		ids = append(ids, id)
	}
	return ids
}
