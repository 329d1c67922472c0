package broker

import "gateway/broker/session"

// A Store keeps what must survive a power cut. The broker decides what is durable and when an
// acknowledgement may leave; the store only makes it true.
type Store interface {
	// Submit hands over changes that become durable together or not at all, in the order of
	// submission. Before it returns it has set the Position of every target of an Enqueued.
	//
	// done is called exactly once, not on the caller's goroutine, in the order of submission:
	// with nil once the changes are on disk, or with the reason why they never will be, and then
	// they have no effect. It may be nil: nobody would do it again, so that changes which need no room for a
	// message are tried, in their place, until the disk takes them.
	//
	// Lazy changes may stay in memory for a while, because no acknowledgement waits for them; but
	// they never change places with others. Submitting nothing is a barrier: done follows all
	// that came before.
	//
	// Submit does not wait for the disk. It waits only while more bytes are pending than the
	// store has room for.
	Submit(changes []session.Change, lazy bool, done func(error))

	// Restore replays the durable state at start-up: for each session Opened, its Subscribed, its
	// Closed if it has ended, one Summary, and the sums of what it has Dropped; then every Retained. Queued messages are not
	// read, so that the time it takes does not grow with them.
	Restore(apply func(session.Change)) error

	// Read returns up to max messages of a session's queue that are not Done, from a position on,
	// in order. Only what is durable is seen.
	Read(client string, from uint64, max int) ([]session.Queued, error)
}

// A yielding Store calls a function in the middle of long work, which returns when clients that have
// something to say had their turn.
type yielding interface{ GiveWay(f func()) }
