package main

import "gateway/broker/session"

// A noStore stands for a store that cannot be opened: it refuses whatever is to be durable.
type noStore struct{ err error }

func (s noStore) Submit(changes []session.Change, _ bool, done func(error)) {
	if done == nil {
		return
	}
	err := s.err
	if len(changes) == 0 {
		err = nil
	}
	go done(err)
}

func (noStore) Restore(func(session.Change)) error { return nil }

func (noStore) Read(string, uint64, int) ([]session.Queued, error) { return nil, nil }
