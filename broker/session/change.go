// Package session is the protocol state of one client, as pure functions: a state and a packet
// make a Step, which says what must be durable, what is then answered, and who is to be woken.
// It also names the durable facts (Change) that the broker and its store share.
package session

import (
	"errors"
	"time"

	"gateway/broker/packet"
)

// A Change is one durable fact about sessions, messages and retained messages. The set is
// sealed: a store commits these and nothing else, a restart replays them, a dump prints them.
//
// Changes are applied in the order of submission. Unless it says otherwise, a change for a
// session that does not exist has no effect.
type Change interface{ change() }

// ErrFull is why a store refuses what would need more room than it has. What frees room is never
// refused.
var ErrFull = errors.New("the store is full")

// Opened begins a durable session or changes its settings. A session that exists keeps its
// subscriptions, queue and received identifiers.
type Opened struct {
	Client string
	Expiry uint32 // seconds after the connection ends; 0xFFFFFFFF never
	// Will is the message that is due when the connection ends, nil if none (5.0, 4.1: it is
	// part of the session state).
	Will *packet.Will
	// Owner is whom the session belongs to; nil: not known, or one of the gateway's own clients.
	Owner *Owner
	// Version is the protocol that the client spoke last.
	Version packet.Version
	// Incarnation tells this session from earlier ones of the same client. The store assigns it
	// before Submit returns, and replays it.
	Incarnation uint64
}

// An Owner is the user that a session belongs to, and what decides whether its will may be published when
// the client is not there to show it again: nothing without a will.
type Owner struct {
	User string // empty: anonymous

	Client      string // its identifier, as it gave it
	Listener    string // by which it came
	Groups      []string
	Super       bool
	By          string // which authenticator let it in
	Addr        string // IP address, empty on a Unix socket
	Certificate []byte // DER; nil: none
	Rules       []byte // that came with its login, as JSON; nil: none
}

// Closed tells when the network connection of a session ended, and removes its will: from now on
// the session's expiry counts.
type Closed struct {
	Client string
	At     time.Time
	// Sent is the position before which messages may have been sent, 0 if that is not known. It counts
	// until the session is Opened again.
	Sent uint64
}

// Removed ends a session and discards all that it held.
type Removed struct{ Client string }

// Subscribed adds or replaces one subscription.
type Subscribed struct {
	Client       string
	Subscription packet.Subscription
	ID           uint32 // subscription identifier, 0 if none
}

// Unsubscribed removes one subscription.
type Unsubscribed struct{ Client, Filter string }

// Enqueued puts one message into the queues of one or more durable sessions.
//
// The store gives every target its position: the next number of that session's queue, counted
// from 1. Positions are assigned in the order of submission, before Submit returns.
type Enqueued struct {
	Message *Message
	To      []*Target
	Dropped []Dropped // what had to go for it; set by the store before done(nil)
}

// A Target is one session that a message is enqueued for, with what is particular to it. It has
// no effect when that incarnation of the session is gone.
type Target struct {
	Client          string
	Incarnation     uint64
	Position        uint64     // assigned by the store; 0: the session does not exist, or the message was dropped
	QoS             packet.QoS // 1 or 2: the lower of the message's and the subscription's
	Retain          bool
	SubscriptionIDs []uint32
	Share           string // the filter of the shared subscription by which the message came, in full; empty: another one

	Room   *Room  // of the queue, nil: any
	Rule   *Rule  // by which the message came, nil: none
	Early  bool   // it may be sent before it is durable: no quota drops it, and it is not stored if it is Done by then
	Holder Holder // needed with DropOldest or an age
	Held   bool   // its Hold was called; set by the store before done
}

// Received remembers the packet identifier of an incoming QoS 2 PUBLISH, so that its repetition
// is not taken for a new message [MQTT-4.3.3-10].
type Received struct {
	Client string
	ID     uint16
}

// Released forgets an identifier that was Received: its PUBREL has come.
type Released struct {
	Client string
	ID     uint16
}

// A Stage is how far the delivery of an outgoing message has come.
type Stage byte

// The stages of an outgoing message.
const (
	Pending  Stage = iota // not acknowledged: PUBLISH is sent, and sent again after a reconnect
	Accepted              // QoS 2, PUBREC has come: only PUBREL is sent from now on
	Done                  // PUBACK or PUBCOMP has come, or the message was given up
)

// Advanced moves the outgoing message at one position of a session's queue to a later stage.
type Advanced struct {
	Client   string
	Position uint64
	Stage    Stage // Accepted or Done
}

// Retained replaces the retained message of a topic; with an empty payload it removes it
// [MQTT-3.3.1-5], [MQTT-3.3.1-6].
type Retained struct{ Message *Message }

// Summary is what a restart learns about the queue of a session; it is replayed, never
// submitted. Every message before Head is Done; Next is the position that the next message
// will get; Stages holds the messages from Head on that are not Pending.
type Summary struct {
	Client   string
	Head     uint64
	Next     uint64
	Bytes    int64 // stored bytes of the messages from Head on
	Stages   map[uint64]Stage
	Received []uint16
	// Strange is the position before which the receiver may have the packet identifier of a message that the
	// store knows nothing of, as after a backup was put back; 0: it has not.
	Strange uint64
}

func (*Opened) change()       {}
func (*Closed) change()       {}
func (*Removed) change()      {}
func (*Subscribed) change()   {}
func (*Unsubscribed) change() {}
func (*Enqueued) change()     {}
func (*Received) change()     {}
func (*Released) change()     {}
func (*Advanced) change()     {}
func (*Retained) change()     {}
func (*Summary) change()      {}

// A Message is an application message that the gateway has taken responsibility for. It is
// immutable once it is shared: queues, retained messages and connections hold the same one.
type Message struct {
	// Publish is the message as its publisher sent it, with ID, Dup, topic alias and
	// subscription identifiers removed, and a Payload of its own.
	Publish packet.Publish
	// At is when the gateway took the message. Its monotonic reading is used while the process
	// lives; a store keeps what is needed to go on after a restart.
	At time.Time
	// Waited is how long the message had waited before At, in a run of the gateway before this
	// one. Message expiry counts Waited plus the time since At.
	Waited time.Duration
	// Undated says that it may have waited longer: the machine has started again since, and the
	// time of day was never known before that.
	Undated bool
}

// A Queued is one message of a session's queue, as a store reads it back.
type Queued struct {
	Position        uint64
	QoS             packet.QoS
	Retain          bool
	SubscriptionIDs []uint32
	Share           string // see Target
	Message         *Message
}
