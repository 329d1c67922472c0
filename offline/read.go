package offline

import (
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"gateway/broker/session"
)

// Restore replays the durable state: for each session Opened, its Subscribed, its Closed if it has
// ended, one Summary, and the Dropped; then every Retained. It does not read queued messages.
//
// The time of a Closed is on the clock of this run: it lies as far back as the session has been
// closed, as far as is known after a start of the machine. A record that cannot be read is left
// out, logged and counted.
func (s *Store) Restore(apply func(session.Change)) error {
	var changes []session.Change
	err := s.view(func(src source) error {
		changes = nil
		bad := func(err error) { s.damaged("restore", err) }
		c, err := readContents(src, bad)
		if err != nil {
			return err
		}
		for _, rec := range c.sessions {
			changes = append(changes, c.opening(rec, s.clock.restore)...)
			changes = append(changes, c.closing(rec, s.clock.restore)...)
		}
		return retained(src, s.clock.restore, bad, func(change session.Change) error {
			changes = append(changes, change)
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	for _, change := range changes { // not within view: apply may submit
		apply(change)
	}
	return nil
}

// Read returns up to most messages of a session's queue that are durable and not Done, from a
// position on, in order. Positions may be missing.
//
// A message taken in this run of the gateway has its At, to the millisecond. One from an earlier
// run has At = when the store was opened, and in Waited how long it had waited before: exactly
// while the machine has not started again, and by the wall clock, if it was set, after that. A
// message that cannot be read is given up: it is logged, counted, and Done.
func (s *Store) Read(client string, from uint64, most int) ([]session.Queued, error) {
	var found []session.Queued
	var unreadable []session.Change
	err := s.viewQueue(client, func(src txSource, number uint64, at *cursor) error {
		found, unreadable = nil, nil
		queue := src.tx.Bucket(bucketNames[bucketQueue]).Cursor()
		for key, rec := queue.Seek(queueKey(number, max(from, at.head))); len(found) < most; key, rec = queue.Next() {
			position, ok := queuePosition(key, number)
			if !ok {
				return nil
			}
			if at.stages[position] == session.Done {
				continue
			}
			q, err := queuedMessage(src, position, rec, s.clock.restore)
			if err != nil {
				s.damaged(fmt.Sprintf("message %d of %s", position, client), err)
				unreadable = append(unreadable, &session.Advanced{Client: client, Position: position, Stage: session.Done})
				continue
			}
			found = append(found, q)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the queue of %s: %w", client, err)
	}
	if unreadable != nil {
		s.Submit(unreadable, true, nil)
	}
	return found, nil
}

// Count returns how many messages of a session's queue are not Done, their bytes and those of
// later ones that are, and when the oldest was taken. It takes the same time for any queue.
// Without messages, or without such a session, all are zero.
func (s *Store) Count(client string) (messages, bytes int64, oldest time.Time) {
	_ = s.viewQueue(client, func(src txSource, number uint64, at *cursor) error {
		messages, bytes = left(src, number, at)
		oldest = time.Time{}
		if at.head == at.next {
			return nil
		}
		q, err := queuedMessage(src, at.head, src.get(bucketQueue, queueKey(number, at.head)), s.clock.restore)
		if err != nil {
			return err
		}
		oldest = q.Message.At.Add(-q.Message.Waited)
		return nil
	})
	return messages, bytes, oldest
}

// viewQueue views the queue of a client, if it has one.
func (s *Store) viewQueue(client string, fn func(src txSource, number uint64, at *cursor) error) error {
	return s.view(func(src source) error {
		rec := src.get(bucketSessions, nameKey(nil, client))
		if rec == nil {
			return nil
		}
		opened, err := parseSession(rec)
		if err != nil {
			return fmt.Errorf("%w: session: %w", errUnsound, err)
		}
		at, err := parseCursor(src.get(bucketCursors, numberKey(opened.number)))
		if err != nil {
			return fmt.Errorf("%w: cursor: %w", errUnsound, err)
		}
		return fn(src.(txSource), opened.number, at)
	})
}

// view reads what is durable.
func (s *Store) view(fn func(source) error) error {
	err := s.file.view(func(tx *bolt.Tx) error { return fn(txSource{tx}) })
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		if _, closed := s.intake.state(); closed {
			return ErrClosed
		}
	}
	if errors.Is(err, errUnsound) {
		s.committer.health(err)
	}
	return reason(err)
}
