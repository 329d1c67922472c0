package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/offline"
)

// vaultPeriod is how often a change of the store's state is looked for. A vault without a store tries
// to open it as often at first, and then less and less, down to every vaultPatience: an attempt may
// read and write much.
const (
	vaultPeriod   = 2 * time.Second
	vaultPatience = 30 * time.Second
)

// A vault is the gateway's place for its store. While there is none in it, because it could not be
// opened, it refuses whatever is to be durable.
type vault struct {
	path        string
	options     offline.Options
	offline.Way // of every store that is opened

	// damaged has room for one error: why the gateway is to begin anew. Nobody has to take it.
	damaged chan error

	mu       sync.Mutex
	store    *offline.Store
	err      error  // why there is none
	restored bool   // its sessions are those of the broker
	writes   []byte // what was last published about what is written to the disk
}

// newVault opens the store, if it can be opened now.
func newVault(path string, o offline.Options) *vault {
	v := &vault{path: path, options: o, damaged: make(chan error, 1)}
	v.options.Way = &v.Way
	v.open(o.Suspect, o.Discard)
	return v
}

// open opens the store and reports whether it is there. It logs why not, once for each reason. What is
// suspect is set aside, and saved from unless it is to be discarded.
func (v *vault) open(suspect error, discard bool) bool {
	o := v.options
	o.Suspect, o.Discard = suspect, discard
	store, err := offline.Open(v.path, o)
	v.mu.Lock()
	defer v.mu.Unlock()
	was, _ := offline.StateOf(v.err)
	v.store, v.err = store, err
	if is, remedy := offline.StateOf(err); err != nil && is != was {
		v.options.Log.Error("no store: QoS 1 and 2 is refused until it can be opened, everything else goes on",
			"state", is, "error", err, "remedy", remedy)
	}
	return err == nil
}

func (v *vault) get() (*offline.Store, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.store, v.err
}

// Submit is part of broker.Store.
func (v *vault) Submit(changes []session.Change, lazy bool, done func(error)) {
	store, err := v.get()
	switch {
	case err == nil:
		store.Submit(changes, lazy, done)
	case done != nil:
		go done(err) // nothing is under way that it would have to follow, and nothing to wait for
	}
}

// Restore is part of broker.Store. A store that could be opened but not read is set aside, and what can
// be read of it takes its place.
func (v *vault) Restore(apply func(session.Change)) error {
	store, err := v.get()
	if err != nil {
		return err
	}
	err = store.Restore(apply)
	for _, discard := range []bool{false, true} {
		if !errors.Is(err, offline.ErrDamaged) {
			break
		}
		v.options.Log.Error("the store cannot be read: it is set aside", "error", err)
		_ = store.Close() // it says once more that it is damaged
		if !v.open(err, discard) {
			_, err = v.get()
			return err
		}
		store, _ = v.get()
		err = store.Restore(apply)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.restored = err == nil
	return err
}

// adopted reports whether the broker has taken over what is in the store.
func (v *vault) adopted() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.restored
}

// Read is part of broker.Store.
func (v *vault) Read(client string, from uint64, most int) ([]session.Queued, error) {
	store, err := v.get()
	if err != nil {
		return nil, err
	}
	return store.Read(client, from, most)
}

// count returns how many messages wait for a client, and since when; see offline.Store.Count.
func (v *vault) count(client string) (messages int, oldest time.Time) {
	store, err := v.get()
	if err != nil {
		return 0, time.Time{}
	}
	n, _, oldest := store.Count(client)
	return int(n), oldest
}

func (v *vault) close() error {
	store, err := v.get()
	if err != nil {
		return nil // what was refused was reported
	}
	return store.Close()
}

// raise tells damaged, if the store has become damaged while it was open.
func (v *vault) raise() {
	store, err := v.get()
	if err != nil {
		return // it is tried again and again
	}
	if err := store.Stats().LastError; errors.Is(err, offline.ErrDamaged) {
		select {
		case v.damaged <- err:
		default: // it is known
		}
	}
}

// awaitDamage waits until the store is found damaged, and until a time, and returns the damage; or nil
// when ctx ends before.
func (v *vault) awaitDamage(ctx context.Context, notBefore time.Time) (damage error) {
	select {
	case damage = <-v.damaged:
	case <-ctx.Done():
		return nil
	}
	select {
	case <-time.After(time.Until(notBefore)):
		return damage
	case <-ctx.Done():
		return nil
	}
}

// A storeReport is what is published about the store.
type storeReport struct {
	State  offline.State `json:"state"`
	Since  time.Time     `json:"since,omitzero"` // not there while nobody knows the time of day
	Error  string        `json:"error,omitempty"`
	Remedy string        `json:"remedy,omitempty"`
	Saved  *savedReport  `json:"salvaged,omitempty"`
}

// A savedReport tells of a damaged file that was set aside at the start.
type savedReport struct {
	Cause    string `json:"cause"`
	Aside    string `json:"aside"`
	Messages int64  `json:"messages"`
	Lost     int64  `json:"lost"` // messages of queues, at most
	Problems int64  `json:"problems"`
}

// report returns how the store is now. Since is for the caller to know.
func (v *vault) report() (r storeReport) {
	store, err := v.get()
	if err == nil {
		stats := store.Stats()
		err = stats.LastError
		if s := stats.Salvaged; s != nil {
			r.Saved = &savedReport{s.Cause.Error(), s.Aside, s.Messages, s.Lost, s.Problems}
		}
	}
	r.State, r.Remedy = offline.StateOf(err)
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// storeState is where the state of the store is published, retained.
const storeState = "$SYS/broker/store/state"

// watch opens the store when that is possible, if it is not open, and publishes its state and what is
// written to its disk, until ctx ends.
func (v *vault) watch(ctx context.Context, server *broker.Server, w *wear, log *slog.Logger) {
	c, err := server.Connect(broker.ClientOptions{ID: "$store", CleanStart: true})
	if err != nil {
		return // the gateway stops
	}
	defer c.Close()
	var counted time.Time
	last, next, wait := storeReport{}, time.Now(), vaultPeriod
	tick := time.NewTicker(vaultPeriod)
	defer tick.Stop()
	for {
		if !v.adopted() && !time.Now().Before(next) {
			if _, err := v.get(); err == nil || v.open(nil, false) {
				if err := server.Adopt(); err == nil {
					log.Info("the store is open: what was kept in it goes on")
				} else {
					log.Error("what the store has kept cannot be read: it is tried again", "error", err, "again_in", wait)
				}
			}
			next, wait = time.Now().Add(wait), min(2*wait, vaultPatience)
		}
		now := v.report()
		now.Since = last.Since
		if now.State != last.State {
			now.Since = time.Time{}
			if day, known := v.options.Clock.Date(time.Now()); known {
				now.Since = day.UTC()
			}
			if text, err := json.Marshal(now); err == nil {
				c.Publish(packet.Publish{Topic: storeState, Payload: text, Retain: true}, nil)
			}
		}
		last = now
		v.raise()
		if time.Since(counted) >= wearPeriod {
			counted = time.Now()
			text := w.text(v)
			v.mu.Lock()
			v.writes = text
			v.mu.Unlock()
			c.Publish(packet.Publish{Topic: storeWrites, Payload: text, Retain: true}, nil)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
