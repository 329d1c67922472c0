package broker

// Acknowledgements leave in the order of the packets that they answer [MQTT-4.6.0-2..4]. An ackLine
// has a place for each, from the arrival of the packet until the answer is ready and at the front.
type ackLine struct {
	waiting []ack
	first   uint64 // place of waiting[0]
}

// An ack is one acknowledgement that has to wait for its turn.
type ack struct {
	bytes []byte
	ready bool
}

// reserve takes the next place.
func (l *ackLine) reserve() uint64 {
	l.waiting = append(l.waiting, ack{})
	return l.first + uint64(len(l.waiting)) - 1
}

// fill puts an answer into its place.
func (l *ackLine) fill(place uint64, answer []byte) {
	l.waiting[place-l.first] = ack{answer, true}
}

// due reports whether leave has something to append.
func (l *ackLine) due() bool { return len(l.waiting) > 0 && l.waiting[0].ready }

// leave appends to dst the answers whose turn has come.
func (l *ackLine) leave(dst []byte) []byte {
	for l.due() {
		dst = append(dst, l.waiting[0].bytes...)
		l.pop()
	}
	return dst
}

// pop gives up the first place.
func (l *ackLine) pop() {
	l.waiting[0] = ack{}
	l.waiting = l.waiting[1:]
	l.first++
	if len(l.waiting) == 0 {
		l.waiting = nil
	}
}
