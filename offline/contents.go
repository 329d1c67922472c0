package offline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"gateway/broker/session"
)

// A source is where the records of a store are read from: the open file, or an image of one that
// may be damaged. What is passed to fn is valid until fn returns.
type source interface {
	each(bucket int, fn func(key, rec []byte) error) error
	get(bucket int, key []byte) []byte
}

// A txSource reads the open file.
type txSource struct{ tx *bolt.Tx }

func (s txSource) each(bucket int, fn func(key, rec []byte) error) error {
	return s.tx.Bucket(bucketNames[bucket]).ForEach(fn)
}

func (s txSource) get(bucket int, key []byte) []byte {
	return s.tx.Bucket(bucketNames[bucket]).Get(key)
}

// An imageSource reads what can be read of an image.
type imageSource struct {
	im    *image
	seen  map[uint64]struct{}
	trees map[string]tree
	bad   func(error)
}

func newImageSource(im *image, bad func(error)) *imageSource {
	s := &imageSource{im: im, seen: make(map[uint64]struct{}), bad: bad}
	s.trees = im.trees(s.seen, bad)
	return s
}

func (s *imageSource) each(bucket int, fn func(key, rec []byte) error) error {
	return s.walk(bucket, nil, fn)
}

// walk is each, and tells lost, if it is not nil, where there may have been more.
func (s *imageSource) walk(bucket int, lost func(span) error, fn func(key, rec []byte) error) error {
	name := string(bucketNames[bucket])
	bad := func(err error) { s.bad(fmt.Errorf("bucket %q: %w", name, err)) }
	t, ok := s.trees[name]
	if !ok {
		w := walk{bad: s.bad, lost: lost}
		return w.leave(span{}, fmt.Errorf("%w: there is no bucket %q", ErrDamaged, name))
	}
	return s.im.each(t, s.seen, bad, lost, fn)
}

func (s *imageSource) get(bucket int, key []byte) []byte {
	t, ok := s.trees[string(bucketNames[bucket])]
	if !ok {
		return nil
	}
	return s.im.get(t, key)
}

// Contents are the sessions of a store without their queues.
type contents struct {
	sessions      []*sessionRecord
	cursors       map[uint64]*cursor
	subscriptions map[uint64][]*session.Subscribed // by session number; Client is not set
	received      map[uint64][]uint16
	strange       map[uint64]uint64 // see session.Summary
	found         map[uint64]found  // what has been emitted of each queue
}

// A found is how much of a queue could be read.
type found struct {
	messages, bytes int64
	last            uint64 // position
}

// readContents reads them, and tells bad of every record that it cannot read.
func readContents(src source, bad func(error)) (*contents, error) {
	c := &contents{
		cursors:       make(map[uint64]*cursor),
		subscriptions: make(map[uint64][]*session.Subscribed),
		received:      make(map[uint64][]uint16),
		strange:       parseStrange(src.get(bucketMeta, keyStrange)),
		found:         make(map[uint64]found),
	}
	readers := []struct {
		bucket int
		read   func(key, rec []byte) error
	}{
		{bucketSessions, func(_, rec []byte) error {
			s, err := parseSession(rec)
			if err == nil {
				c.sessions = append(c.sessions, s)
			}
			return err
		}},
		{bucketCursors, func(key, rec []byte) error {
			at, err := parseCursor(rec)
			if err == nil && len(key) != 8 {
				err = errKey
			}
			if err == nil {
				c.cursors[keyNumber(key)] = at
			}
			return err
		}},
		{bucketSubscriptions, func(key, rec []byte) error {
			s, id, err := parseSubscription(rec)
			if err == nil && len(key) < 8 {
				err = errKey
			}
			if err == nil {
				n := keyNumber(key)
				c.subscriptions[n] = append(c.subscriptions[n], &session.Subscribed{Subscription: s, ID: id})
			}
			return err
		}},
		{bucketReceived, func(key, rec []byte) error {
			_, err := unseal(rec)
			if err == nil && len(key) != 10 {
				err = errKey
			}
			if err == nil {
				n := keyNumber(key)
				c.received[n] = append(c.received[n], binary.BigEndian.Uint16(key[8:]))
			}
			return err
		}},
	}
	for _, r := range readers {
		err := src.each(r.bucket, func(key, rec []byte) error {
			if err := r.read(key, rec); err != nil {
				bad(fmt.Errorf("bucket %q: key %x: %w", bucketNames[r.bucket], key, err))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

var errKey = fmt.Errorf("%w: a key of the wrong length", ErrDamaged)

// keyNumber returns the number that a key begins with.
func keyNumber(key []byte) uint64 { return binary.BigEndian.Uint64(key) }

// A calendar turns the stamp of a record into a moment.
type calendar func(stamp) moment

// A moment is when something happened: at, after it had waited before.
type moment struct {
	at      time.Time
	waited  time.Duration
	undated bool // it may have waited longer
}

// opening returns what restores a session, but for its queue.
func (c *contents) opening(s *sessionRecord, when calendar) []session.Change {
	changes := []session.Change{&session.Opened{
		Client: s.client, Expiry: s.expiry, Will: s.will, Owner: s.owner, Version: s.version, Incarnation: s.number,
	}}
	for _, sub := range c.subscriptions[s.number] {
		changes = append(changes, &session.Subscribed{Client: s.client, Subscription: sub.Subscription, ID: sub.ID})
	}
	if s.closed != nil {
		m := when(*s.closed)
		changes = append(changes, &session.Closed{Client: s.client, At: m.at.Add(-m.waited), Sent: s.sent})
	}
	return changes
}

// summary returns what restores the queue of a session, but for its messages.
func (c *contents) summary(s *sessionRecord) *session.Summary {
	at := c.cursors[s.number]
	if at == nil {
		at = newCursor()
	}
	return &session.Summary{
		Client: s.client, Head: at.head, Next: at.next, Bytes: at.bytes,
		Stages: maps.Clone(at.stages), Received: slices.Clone(c.received[s.number]), Strange: c.strange[s.number],
	}
}

// closing returns the summary of a session, and what it has dropped.
func (c *contents) closing(s *sessionRecord, when calendar) []session.Change {
	changes := []session.Change{c.summary(s)}
	if at := c.cursors[s.number]; at != nil {
		for _, d := range at.drops(s.client, when) {
			changes = append(changes, &d)
		}
	}
	return changes
}

// retained reads all retained messages.
func retained(src source, when calendar, bad func(error), emit func(session.Change) error) error {
	return src.each(bucketRetained, func(key, rec []byte) error {
		m, err := sealedMessage(bytes.Clone(rec), when)
		if err != nil {
			bad(fmt.Errorf("bucket %q: key %x: %w", bucketNames[bucketRetained], key, err))
			return nil
		}
		return emit(&session.Retained{Message: m})
	})
}

// sealedMessage reads the record of a message, whose payload will alias it.
func sealedMessage(rec []byte, when calendar) (*session.Message, error) {
	b, err := unseal(rec)
	if err != nil {
		return nil, err
	}
	return message(b, when)
}

func message(b []byte, when calendar) (*session.Message, error) {
	s, publish, err := parseMessage(&parser{b: b})
	if err != nil {
		return nil, err
	}
	m := when(s)
	return &session.Message{Publish: publish, At: m.at, Waited: m.waited, Undated: m.undated}, nil
}

var errNoBody = fmt.Errorf("%w: the body of a message is not there", ErrDamaged)

// queuedMessage reads a record of a queue, and the body that it may refer to.
func queuedMessage(src source, position uint64, rec []byte, when calendar) (session.Queued, error) {
	q, err := parseQueued(rec)
	if err != nil {
		return session.Queued{}, err
	}
	var m *session.Message
	if q.body == 0 {
		m, err = message(bytes.Clone(q.message), when)
	} else if body := src.get(bucketBodies, numberKey(q.body)); body != nil {
		m, err = sealedMessage(bytes.Clone(body), when)
	} else {
		err = errNoBody
	}
	if err != nil {
		return session.Queued{}, err
	}
	return session.Queued{
		Position: position, QoS: q.qos, Retain: q.retain, SubscriptionIDs: q.ids, Share: q.share, Message: m,
	}, nil
}

// facts emits all that a store holds, in an order in which it can be replayed: for each session
// Opened, its Subscribed, its Closed; then for each message that is not Done an Enqueued with one
// target, and an Advanced if it was Accepted; then of each session the Summary and its Dropped; then
// every Retained.
func facts(src source, when calendar, bad func(error), emit func(session.Change) error) error {
	c, err := readContents(src, bad)
	if err != nil {
		return err
	}
	if err := c.queues(src, when, bad, emit); err != nil {
		return err
	}
	return c.rest(src, when, bad, emit)
}

// queues emits the first half of the facts, up to the messages in queues.
func (c *contents) queues(src source, when calendar, bad func(error), emit func(session.Change) error) error {
	byNumber := make(map[uint64]*sessionRecord)
	for _, s := range c.sessions {
		byNumber[s.number] = s
		for _, change := range c.opening(s, when) {
			if err := emit(change); err != nil {
				return err
			}
		}
	}
	return src.each(bucketQueue, func(key, rec []byte) error {
		if len(key) != 16 {
			bad(fmt.Errorf("bucket %q: key %x: %w", bucketNames[bucketQueue], key, errKey))
			return nil
		}
		return c.enqueued(src, byNumber[keyNumber(key)], key, rec, when, bad, emit)
	})
}

// rest emits the second half.
func (c *contents) rest(src source, when calendar, bad func(error), emit func(session.Change) error) error {
	for _, s := range c.sessions {
		for _, change := range c.closing(s, when) {
			if err := emit(change); err != nil {
				return err
			}
		}
	}
	return retained(src, when, bad, emit)
}

// errOrphan tells that nobody knows whose message it is.
var errOrphan = errors.New("a message of a session that is not there")

// enqueued emits one record of the queue of session s.
func (c *contents) enqueued(src source, s *sessionRecord, key, rec []byte, when calendar, bad func(error),
	emit func(session.Change) error) error {
	at := c.cursors[keyNumber(key)]
	position := binary.BigEndian.Uint64(key[8:])
	if at != nil && (at.removed || position < at.head || at.stages[position] == session.Done) {
		return nil
	}
	m, err := queuedMessage(src, position, rec, when)
	if err == nil && s == nil {
		err = fmt.Errorf("%w: %w", ErrDamaged, errOrphan)
	}
	if err != nil {
		bad(fmt.Errorf("bucket %q: key %x: %w", bucketNames[bucketQueue], key, err))
		return nil
	}
	rule, size := weight(rec)
	f := c.found[s.number]
	c.found[s.number] = found{f.messages + 1, f.bytes + size, position}
	to := &session.Target{
		Client: s.client, Incarnation: s.number, Position: position,
		QoS: m.QoS, Retain: m.Retain, SubscriptionIDs: m.SubscriptionIDs, Share: m.Share,
	}
	if rule != 0 {
		to.Rule = &session.Rule{Number: rule}
		if at != nil {
			to.Rule.Filter = at.part(rule).filter
		}
	}
	err = emit(&session.Enqueued{Message: m.Message, To: []*session.Target{to}})
	if err == nil && at != nil && at.stages[position] == session.Accepted {
		err = emit(&session.Advanced{Client: s.client, Position: position, Stage: session.Accepted})
	}
	return err
}
