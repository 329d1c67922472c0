package session

import (
	"hash/crc32"
	"time"
)

// A Policy says what becomes of a message that a quota has no room for.
type Policy byte

// The policies.
const (
	// DropNewest drops the message. Its publisher is acknowledged all the same.
	DropNewest Policy = iota
	// DropOldest drops the oldest messages that were never sent: of the same rule if its own bound is
	// reached, or else of any rule with this policy. What is in flight, or read to be sent, stays; if
	// there is nothing else, the message is dropped itself.
	DropOldest
	// Refuse takes nothing: no receiver gets the message, and its publisher keeps it (ErrFull).
	Refuse
)

// A Quota bounds what waits in a queue, or in that part of it which came by one rule.
type Quota struct {
	Messages int64         // 0: any number
	Bytes    int64         // of their PUBLISH packets; 0: any number
	Age      time.Duration // older ones are dropped, whatever Full says, unless they are on their way; 0: never
	Full     Policy
}

// Holds reports whether messages of so many bytes are within the quota. The age is not asked for.
func (q *Quota) Holds(messages, bytes int64) bool {
	return (q.Messages == 0 || messages <= q.Messages) && (q.Bytes == 0 || bytes <= q.Bytes)
}

// A Room is what bounds one queue: a quota of all of it, and those of its parts.
type Room struct {
	Quota Quota
	Rules []Rule
}

// Policy returns what becomes of messages that come by a rule, 0 for none.
func (r *Room) Policy(rule uint32) Policy {
	for i := range r.Rules {
		if r.Rules[i].Number == rule {
			return r.Rules[i].Quota.Full
		}
	}
	return r.Quota.Full
}

// Filter returns the filter of a rule, if the room has it.
func (r *Room) Filter(rule uint32) string {
	for i := range r.Rules {
		if r.Rules[i].Number == rule {
			return r.Rules[i].Filter
		}
	}
	return ""
}

// A Rule is a part of a queue. Its policy comes before the queue's, also where the bound of the queue
// is reached.
type Rule struct {
	Number uint32 // not 0, and the same after a restart
	Filter string
	Quota  Quota
}

// NewRule returns the rule for the topics that match a filter. Its number is a checksum of the
// filter.
func NewRule(filter string, q Quota) Rule {
	return Rule{Number: max(crc32.ChecksumIEEE([]byte(filter)), 1), Filter: filter, Quota: q}
}

// A Holder is the receiver of a queue.
type Holder interface {
	// Hold returns the position from which on messages may be dropped: they have not been sent, and
	// will not be until the unit that holds them is done.
	Hold() (from uint64)
}

// A Reason says why a message was dropped.
type Reason byte

// The reasons.
const (
	Full    Reason = iota // there was no room for it, or it had to make room
	Old                   // it was older than its quota allows
	Lost                  // the store was damaged, and it could not be read; some of these may be there all the same
	Reasons               // how many there are
)

// String returns the word for a reason.
func (r Reason) String() string {
	switch r {
	case Old:
		return "old"
	case Lost:
		return "lost"
	}
	return "full"
}

// Dropped tells of messages that were dropped, or lost, from a session's queue for one reason. A restart
// replays the sum of all that were since the session began.
type Dropped struct {
	Client   string
	Rule     uint32 // its number, 0: none
	Filter   string // of the rule
	Reason   Reason
	Messages int64
	Bytes    int64  // of their PUBLISH packets
	First    uint64 // the lowest of their positions
	Last     uint64 // the highest
	Since    time.Time
	Until    time.Time // when the first and the last were dropped
}

// Add counts what was dropped later, for the same reason.
func (d *Dropped) Add(later Dropped) {
	if d.Messages == 0 {
		*d = later
		return
	}
	d.Messages += later.Messages
	d.Bytes += later.Bytes
	d.First, d.Last = min(d.First, later.First), max(d.Last, later.Last)
	d.Until = later.Until
	if later.Filter != "" {
		d.Filter = later.Filter
	}
}

// Trimmed drops what is older than the quota of a session's queue allows, and with DropOldest what
// is beyond it. Its effects are those of an Enqueued without a message.
type Trimmed struct {
	To      *Target
	Dropped []Dropped // set by the store before done(nil)
}

func (*Dropped) change() {}
func (*Trimmed) change() {}
