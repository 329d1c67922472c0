package offline

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"gateway/broker/session"
)

// maxProblems is how many problems a report names.
const maxProblems = 100

// A Report is what Check has found in a file.
type Report struct {
	FileBytes     int64
	Sessions      int
	Subscriptions int
	Received      int   // packet identifiers of incoming QoS 2 messages
	Messages      int64 // waiting in queues, each queue counted
	Bytes         int64 // of their PUBLISH packets
	Dead          int64 // messages that are done with and not yet swept
	Bodies        int   // messages that several queues share
	Retained      int
	Problems      []string // at most 100
	Omitted       int      // further problems
}

func (r *Report) bad(err error) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, err.Error())
	} else {
		r.Omitted++
	}
}

func (r *Report) badf(format string, args ...any) { r.bad(fmt.Errorf(format, args...)) }

// Check reads all of a file, which no gateway may have open (ErrInUse), and changes nothing. It
// returns an error if there is no store to be read, and what is wrong with it in the report.
func Check(path string) (Report, error) {
	var r Report
	err := readFile(path, r.bad, func(src *imageSource, size int64) error {
		r.FileBytes = size
		c, err := readContents(src, r.bad)
		if err != nil {
			return err
		}
		k := checker{Report: &r, contents: c, queues: make(map[uint64]*cursor), references: make(map[uint64]uint64)}
		k.sessions()
		return errors.Join(src.each(bucketQueue, k.queued), k.counts(), k.bodies(src),
			retained(src, recorded, r.bad, func(session.Change) error { r.Retained++; return nil }))
	})
	if err != nil {
		return r, fmt.Errorf("check %s: %w", path, err)
	}
	return r, nil
}

// Dump emits all that a file holds, with times as they are recorded: for each session Opened, its
// Subscribed and its Closed; then every waiting message as an Enqueued with one target, and an
// Advanced when it was Accepted; then a Summary for each session, and its Dropped; then every Retained. No gateway
// may have the file open (ErrInUse). What cannot be read is left out; the error tells how much
// and what came first.
func Dump(path string, emit func(session.Change) error) error {
	problems := 0
	var first error
	bad := func(err error) {
		if problems++; first == nil {
			first = err
		}
	}
	err := readFile(path, bad, func(src *imageSource, _ int64) error { return facts(src, recorded, bad, emit) })
	if err == nil && problems > 0 {
		err = fmt.Errorf("%d pages or records cannot be read, the first: %w", problems, first)
	}
	if err != nil {
		return fmt.Errorf("dump %s: %w", path, err)
	}
	return nil
}

// recorded is the calendar of those who only look: the times as they are in the file.
func recorded(s stamp) moment { return moment{at: s.time(), waited: s.waited} }

// readFile opens a file for reading, unless a gateway has it.
func readFile(path string, bad func(error), read func(src *imageSource, size int64) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%w: stop the gateway first", ErrInUse)
		}
		return err
	}
	src, err := openImage(f, bad)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return read(src, info.Size())
}

// A checker compares the parts of a store with one another.
type checker struct {
	*Report
	*contents
	queues     map[uint64]*cursor // what the queues really hold from their heads on
	references map[uint64]uint64  // from queues to bodies
}

func (k *checker) sessions() {
	known := make(map[uint64]bool)
	for _, s := range k.contents.sessions {
		k.Sessions++
		if at := k.cursors[s.number]; at == nil || at.removed || known[s.number] {
			k.badf("session %q: its number %d has no cursor of its own", s.client, s.number)
		}
		known[s.number] = true
	}
	for number, at := range k.cursors {
		if !at.removed && !known[number] {
			k.badf("cursor %d belongs to no session", number)
		}
	}
	for number, subscriptions := range k.subscriptions {
		k.Subscriptions += len(subscriptions)
		if !known[number] {
			k.badf("%d subscriptions of session %d, which is not there", len(subscriptions), number)
		}
	}
	for number, ids := range k.received {
		k.Received += len(ids)
		if !known[number] {
			k.badf("%d received identifiers of session %d, which is not there", len(ids), number)
		}
	}
}

// queued checks one record of the queues.
func (k *checker) queued(key, rec []byte) error {
	if len(key) != 16 {
		k.badf("queue: key %x: %w", key, errKey)
		return nil
	}
	number := keyNumber(key)
	position := keyNumber(key[8:])
	q, err := parseQueued(rec)
	if err == nil && q.body == 0 {
		_, err = message(q.message, recorded)
	}
	if err != nil {
		k.badf("session %d, message %d: %w", number, position, err)
	}
	if q.body != 0 {
		k.references[q.body]++
	}
	at := k.cursors[number]
	switch {
	case at == nil:
		k.badf("session %d, message %d: there is no such session", number, position)
	case position >= at.next && !at.removed:
		k.badf("session %d, message %d: it is behind the end of its queue, %d", number, position, at.next)
	case at.removed || position < at.head:
		k.Dead++
	default:
		if k.queues[number] == nil {
			k.queues[number] = newCursor()
		}
		rule, size := weight(rec)
		k.queues[number].add(position, rule, size)
		if at.stages[position] == session.Done {
			k.Dead++
		} else {
			k.Messages++
			k.Bytes += size
		}
	}
	return nil
}

// counts compares what the cursors say with what was there.
func (k *checker) counts() error {
	for number, at := range k.cursors {
		found := k.queues[number]
		if found == nil {
			found = newCursor()
		}
		if found.count != at.count || found.bytes != at.bytes {
			k.badf("session %d: its queue has %d messages of %d bytes, its cursor says %d of %d",
				number, found.count, found.bytes, at.count, at.bytes)
		}
		for rule, p := range at.parts {
			if f := found.parts[rule]; rule != 0 && (f.count != p.count || f.bytes != p.bytes) {
				k.badf("session %d: its queue has %d messages of %d bytes by rule %d, its cursor says %d of %d",
					number, f.count, f.bytes, rule, p.count, p.bytes)
			}
		}
		if found.count > 0 && found.head != at.head {
			k.badf("session %d: the head of its queue is missing", number)
		}
	}
	return nil
}

func (k *checker) bodies(src source) error {
	left := make(map[uint64]uint64)
	err := src.each(bucketRefs, func(key, rec []byte) error {
		n, err := parseNumber(rec)
		if err == nil && len(key) != 8 {
			err = errKey
		}
		if err != nil {
			k.badf("refs: key %x: %w", key, err)
			return nil
		}
		left[keyNumber(key)] = n
		return nil
	})
	if err != nil {
		return err
	}
	err = src.each(bucketBodies, func(key, rec []byte) error {
		if len(key) != 8 {
			k.badf("bodies: key %x: %w", key, errKey)
			return nil
		}
		k.Bodies++
		number := keyNumber(key)
		if _, err := sealedMessage(rec, recorded); err != nil {
			k.badf("body %d: %w", number, err)
		}
		if left[number] != k.references[number] || left[number] == 0 {
			k.badf("body %d: %d records refer to it, not %d", number, k.references[number], left[number])
		}
		delete(left, number)
		delete(k.references, number)
		return nil
	})
	for number := range left {
		k.badf("body %d is missing, though it is counted", number)
	}
	for number, n := range k.references {
		k.badf("body %d is missing, though %d records refer to it", number, n)
	}
	return err
}
