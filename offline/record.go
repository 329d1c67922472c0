package offline

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// Every value in the file is sealed: one byte with the version of the record, the CRC-32C
// (Castagnoli, big-endian) of the rest, and the rest. bbolt has no checksums of its own for the
// pages that hold them.
const (
	recordVersion = 1
	sealSize      = 1 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// unsealed begins a record that will have about n bytes behind its seal.
func unsealed(n int) []byte { return make([]byte, sealSize, sealSize+n) }

// seal completes a record begun with unsealed.
func seal(rec []byte) []byte {
	rec[0] = recordVersion
	binary.BigEndian.PutUint32(rec[1:], crc32.Checksum(rec[sealSize:], castagnoli))
	return rec
}

// sealQueued is seal for a record of a queue. One with a rule has a version of its own, and so has one
// that came by a shared subscription.
func sealQueued(rec []byte) []byte {
	seal(rec)
	switch options := rec[sealSize]; {
	case options&queuedGroup != 0:
		rec[0] = queuedVersion
	case options&queuedRule != 0:
		rec[0] = queuedVersion - 1
	}
	return rec
}

// unseal returns what is behind the seal. It aliases rec.
func unseal(rec []byte) ([]byte, error) { return unsealVersion(rec, recordVersion) }

// unsealVersion is unseal for a record that may have a later version.
func unsealVersion(rec []byte, last byte) ([]byte, error) {
	switch {
	case len(rec) < sealSize:
		return nil, fmt.Errorf("%w: a record of %d bytes", ErrDamaged, len(rec))
	case rec[0] < recordVersion || rec[0] > last:
		return nil, fmt.Errorf("%w: a record of version %d, not %d", ErrDamaged, rec[0], last)
	case binary.BigEndian.Uint32(rec[1:]) != crc32.Checksum(rec[sealSize:], castagnoli):
		return nil, fmt.Errorf("%w: a record with a wrong checksum", ErrDamaged)
	}
	return rec[sealSize:], nil
}

var errShort = fmt.Errorf("%w: a record that ends too early", ErrDamaged)

// A parser takes a record apart. After the first field that is not there all fields are zero, and
// end returns an error.
type parser struct {
	b     []byte
	short bool
}

func (p *parser) take(n uint64) []byte {
	if n > uint64(len(p.b)) {
		p.b, p.short = nil, true
		return nil
	}
	field := p.b[:n]
	p.b = p.b[n:]
	return field
}

func (p *parser) byte() byte {
	if b := p.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 {
		p.b, p.short = nil, true
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *parser) uint64() uint64 {
	if b := p.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (p *parser) text() string { return string(p.take(p.uvarint())) }

func (p *parser) end() error {
	if p.short {
		return errShort
	}
	return nil
}

func appendText(rec []byte, s string) []byte {
	return append(binary.AppendUvarint(rec, uint64(len(s))), s...)
}

// appendPublish appends a message as an MQTT 5.0 PUBLISH packet with the QoS it was published
// with. QoS 1 and 2 need a packet identifier, which a stored message does not have: it is 1.
func appendPublish(rec []byte, p packet.Publish) ([]byte, error) {
	if len(p.Topic) > math.MaxUint16 || p.Topic == "" {
		return nil, fmt.Errorf("a topic of %d bytes cannot be stored", len(p.Topic))
	}
	p.ID, p.Dup = 0, false
	if p.QoS > 0 {
		p.ID = 1
	}
	return p.Append(rec, packet.V5), nil
}

// parsePublish reads what appendPublish has written. The payload aliases b.
func parsePublish(b []byte) (packet.Publish, error) {
	h, n, err := packet.ParseHeader(b)
	if err == nil && (h.Type != packet.PUBLISH || h.Length != len(b)-n) {
		err = errors.New("not one PUBLISH packet")
	}
	if err != nil {
		return packet.Publish{}, fmt.Errorf("%w: message: %w", ErrDamaged, err)
	}
	d := packet.Decoder{Version: packet.V5}
	p, err := d.Publish(h.Flags, b[n:])
	if err != nil {
		return packet.Publish{}, fmt.Errorf("%w: message: %w", ErrDamaged, err)
	}
	p.ID = 0
	return p, nil
}

// A stored message is its stamp and its PUBLISH packet.
func appendMessage(rec []byte, s stamp, p packet.Publish) ([]byte, error) {
	return appendPublish(s.append(rec), p)
}

func parseMessage(p *parser) (stamp, packet.Publish, error) {
	s := parseStamp(p)
	if err := p.end(); err != nil {
		return stamp{}, packet.Publish{}, err
	}
	publish, err := parsePublish(p.b)
	return s, publish, err
}

// A queued is the record of one message in one queue. The message is in the record itself, or,
// when other queues have it too, in the bodies.
type queued struct {
	qos     packet.QoS
	retain  bool
	ids     []uint32 // subscription identifiers
	rule    uint32   // by which it came, 0: none
	share   string   // the shared subscription by which it came, empty: none
	body    uint64   // number of the body, 0: the message is here
	size    int64    // bytes of the PUBLISH packet
	message []byte   // stamp and PUBLISH packet, nil if body is set; aliases the record
}

const (
	queuedQoS    = 0x03
	queuedRetain = 0x04
	queuedShared = 0x08
	queuedRule   = 0x10
	queuedGroup  = 0x20
)

// queuedVersion is the version of a queued message of a shared subscription. With a rule only it is the
// one before.
const queuedVersion = 3

// appendTarget begins a record in a queue with what is particular to the queue.
func appendTarget(rec []byte, t *session.Target, shared bool) []byte {
	options := byte(t.QoS) & queuedQoS
	if t.Retain {
		options |= queuedRetain
	}
	if shared {
		options |= queuedShared
	}
	if t.Rule != nil {
		options |= queuedRule
	}
	if t.Share != "" {
		options |= queuedGroup
	}
	rec = append(rec, options)
	rec = binary.AppendUvarint(rec, uint64(len(t.SubscriptionIDs)))
	for _, id := range t.SubscriptionIDs {
		rec = binary.AppendUvarint(rec, uint64(id))
	}
	if t.Rule != nil {
		rec = binary.AppendUvarint(rec, uint64(t.Rule.Number))
	}
	if t.Share != "" {
		rec = appendText(rec, t.Share)
	}
	return rec
}

// appendShared completes a record begun with appendTarget by the place of its message.
func appendShared(rec []byte, body uint64, size int64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(rec, body), uint64(size))
}

func parseQueued(rec []byte) (queued, error) {
	b, err := unsealVersion(rec, queuedVersion)
	if err != nil {
		return queued{}, err
	}
	return parseTarget(b)
}

// parseTarget parses a queue's record behind its seal.
func parseTarget(b []byte) (queued, error) {
	p := parser{b: b}
	options := p.byte()
	q := queued{qos: packet.QoS(options & queuedQoS), retain: options&queuedRetain != 0}
	n := p.uvarint()
	if n > uint64(len(p.b)) {
		return queued{}, errShort
	}
	for range n {
		q.ids = append(q.ids, uint32(p.uvarint()))
	}
	if options&queuedRule != 0 {
		q.rule = uint32(p.uvarint())
	}
	if options&queuedGroup != 0 {
		q.share = p.text()
	}
	if options&queuedShared != 0 {
		q.body, q.size = p.uvarint(), int64(p.uvarint())
		return q, p.end()
	}
	q.message = p.b
	parseStamp(&p)
	q.size = int64(len(p.b))
	return q, p.end()
}

// weight returns the rule and the size of the message in a record of a queue, which may be damaged,
// as they were counted when the record was written.
func weight(rec []byte) (rule uint32, size int64) {
	q, err := parseTarget(rec[min(sealSize, len(rec)):])
	if err != nil {
		return 0, 0
	}
	return q.rule, q.size
}

// A sessionRecord is what the file holds of a session besides its subscriptions and its queue.
type sessionRecord struct {
	number  uint64 // of this incarnation: a session that is removed and opened again gets another
	client  string
	version packet.Version
	expiry  uint32
	owner   *session.Owner // nil: not known
	closed  *stamp         // nil: the connection had not ended
	sent    uint64         // position before which messages may have been sent by then, 0: not known
	will    *packet.Will
}

const (
	sessionClosed = 0x01
	sessionWill   = 0x02
	sessionOwner  = 0x04
	sessionSent   = 0x08
)

// sessionVersion is the version of a session of which is known what was sent. With an owner only it is the
// one before.
const sessionVersion = 3

// sealed returns the record.
func (s *sessionRecord) sealed() ([]byte, error) {
	rec, err := s.append(unsealed(64 + len(s.client)))
	if err != nil {
		return nil, err
	}
	seal(rec)
	switch {
	case s.sent != 0:
		rec[0] = sessionVersion
	case s.owner != nil:
		rec[0] = sessionVersion - 1
	}
	return rec, nil
}

func (s *sessionRecord) append(rec []byte) ([]byte, error) {
	rec = binary.AppendUvarint(rec, s.number)
	flags := byte(0)
	if s.closed != nil {
		flags |= sessionClosed
	}
	if s.will != nil {
		flags |= sessionWill
	}
	if s.owner != nil {
		flags |= sessionOwner
	}
	if s.sent != 0 {
		flags |= sessionSent
	}
	rec = append(rec, byte(s.version), flags)
	rec = binary.AppendUvarint(rec, uint64(s.expiry))
	rec = appendText(rec, s.client)
	if s.closed != nil {
		rec = s.closed.append(rec)
	}
	if s.sent != 0 {
		rec = binary.AppendUvarint(rec, s.sent)
	}
	if s.owner != nil {
		rec = appendOwner(rec, s.owner, s.will != nil)
	}
	if s.will == nil {
		return rec, nil
	}
	rec = binary.AppendUvarint(rec, uint64(s.will.Delay))
	return appendPublish(rec, packet.Publish{
		QoS: s.will.QoS, Retain: s.will.Retain, Topic: s.will.Topic,
		Payload: s.will.Payload, Properties: s.will.Properties,
	})
}

func parseSession(rec []byte) (*sessionRecord, error) {
	b, err := unsealVersion(rec, sessionVersion)
	if err != nil {
		return nil, err
	}
	p := parser{b: b}
	s := &sessionRecord{number: p.uvarint(), version: packet.Version(p.byte())}
	flags := p.byte()
	s.expiry, s.client = uint32(p.uvarint()), p.text()
	if flags&sessionClosed != 0 {
		closed := parseStamp(&p)
		s.closed = &closed
	}
	if flags&sessionSent != 0 {
		s.sent = p.uvarint()
	}
	if flags&sessionOwner != 0 {
		s.owner = parseOwner(&p, flags&sessionWill != 0)
	}
	if flags&sessionWill == 0 {
		return s, p.end()
	}
	s.will = &packet.Will{Delay: uint32(p.uvarint())}
	if err := p.end(); err != nil {
		return nil, err
	}
	m, err := parsePublish(append([]byte(nil), p.b...))
	if err != nil {
		return nil, err
	}
	s.will.Topic, s.will.Payload, s.will.QoS = m.Topic, m.Payload, m.QoS
	s.will.Retain, s.will.Properties = m.Retain, m.Properties
	return s, nil
}

// appendOwner appends whom a session belongs to, and with a will what decides about that.
func appendOwner(rec []byte, o *session.Owner, will bool) []byte {
	rec = appendText(rec, o.User)
	if !will {
		return rec
	}
	super := byte(0)
	if o.Super {
		super = 1
	}
	rec = append(appendText(appendText(appendText(rec, o.Client), o.Listener), o.By), super)
	rec = binary.AppendUvarint(rec, uint64(len(o.Groups)))
	for _, g := range o.Groups {
		rec = appendText(rec, g)
	}
	return appendText(appendText(appendText(rec, o.Addr), string(o.Certificate)), string(o.Rules))
}

func parseOwner(p *parser, will bool) *session.Owner {
	o := &session.Owner{User: p.text()}
	if !will {
		return o
	}
	o.Client, o.Listener, o.By, o.Super = p.text(), p.text(), p.text(), p.byte() == 1
	for n := p.uvarint(); n > 0 && !p.short; n-- {
		o.Groups = append(o.Groups, p.text())
	}
	o.Addr = p.text()
	if certificate := p.text(); certificate != "" {
		o.Certificate = []byte(certificate)
	}
	if rules := p.text(); rules != "" {
		o.Rules = []byte(rules)
	}
	return o
}

// A subscription is stored with its options as they stand in a SUBSCRIBE packet (5.0, 3.8.3.1).
func subscriptionRecord(s packet.Subscription, id uint32) []byte {
	options := byte(s.QoS)&0x03 | s.RetainHandling&0x03<<4
	if s.NoLocal {
		options |= 0x04
	}
	if s.RetainAsPublished {
		options |= 0x08
	}
	rec := append(unsealed(8+len(s.Filter)), options)
	return seal(appendText(binary.AppendUvarint(rec, uint64(id)), s.Filter))
}

func parseSubscription(rec []byte) (packet.Subscription, uint32, error) {
	b, err := unseal(rec)
	if err != nil {
		return packet.Subscription{}, 0, err
	}
	p := parser{b: b}
	options := p.byte()
	id := uint32(p.uvarint())
	return packet.Subscription{
		Filter: p.text(), QoS: packet.QoS(options & 0x03), RetainHandling: options >> 4 & 0x03,
		NoLocal: options&0x04 != 0, RetainAsPublished: options&0x08 != 0,
	}, id, p.end()
}

// A number stands alone in some records: the remaining references of a body, the format.
func numberRecord(n uint64) []byte { return seal(binary.AppendUvarint(unsealed(2), n)) }

func parseNumber(rec []byte) (uint64, error) {
	b, err := unseal(rec)
	if err != nil {
		return 0, err
	}
	p := parser{b: b}
	return p.uvarint(), p.end()
}
