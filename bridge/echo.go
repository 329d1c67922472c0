package bridge

import (
	"hash/maphash"
	"sync"
	"time"
)

// MQTT 3.1.1 can carry no count of crossings. What a circle of bridges does can still be seen: the same
// message, topic and payload, crosses this one again and again, and somebody else publishes it than at
// first. So every n-th of such copies within circlePeriod is stopped. In a circle each of them is the
// one before, come round: a message goes round n times at most. Where bridges are so many that a message
// doubles on its way, that is not enough: so when n times circleFlood of the same have come, n of them
// such copies, all others of the period are stopped.
//
// With many messages the first publisher may be forgotten. So after n times circleFlood of the same message
// every n-th is stopped whoever publishes it: a device has to say the same that often to lose one in n.
// When so many come, those that have waited on disk are all stopped, as nobody knows any more whose they are.
// What comes from the cloud counts as a copy, as nobody ever knew.
const (
	circleLimit  = 50 // the default of n
	circlePeriod = 15 * time.Second
	circleFlood  = 10
)

// Echoes count the messages that cross a bridge, those that go up and those that come down apart.
// Its memory is bounded, 40 KiB: of messages in one row, those that came least often make room. So
// whatever else crosses, some of those in a circle come to their end, and then the next.
type echoes struct {
	limit int // below 1: nothing is counted
	begin time.Time
	seed  maphash.Seed

	mu   sync.Mutex
	rows [256][4]echo // by hash
}

type echo struct {
	hash   uint64
	from   uint64        // hash of who published the first, 0: it is not known
	since  time.Duration // since begin: when the first of count came
	count  int
	copies int // of count, those that are somebody else's
}

func newEchoes(limit int, now time.Time) *echoes {
	return &echoes{limit: limit, begin: now, seed: maphash.MakeSeed()}
}

// circles counts a message that crosses now, published by a client of that name, or by nobody knows
// whom. It reports whether it is one too many.
func (e *echoes) circles(d Direction, from, topic string, payload []byte, now time.Time) bool {
	if e == nil || e.limit < 1 {
		return false
	}
	var h maphash.Hash
	h.SetSeed(e.seed)
	h.WriteByte(byte(d))
	h.WriteString(topic)
	h.WriteByte(0)
	h.Write(payload)
	sum, at := h.Sum64(), now.Sub(e.begin)
	var who uint64
	if from != "" {
		who = maphash.String(e.seed, from)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	one := find(&e.rows[sum%uint64(len(e.rows))], sum, at)
	if one.from == 0 {
		one.from = who
	}
	one.count++
	flood := one.count >= circleFlood*e.limit
	if d == In || who != one.from && who != 0 {
		one.copies++
		return flood || one.copies%e.limit == 0
	}
	return flood && (who == 0 || one.copies >= e.limit || one.count%e.limit == 0)
}

// find returns the place of a message in its row, empty if it was not there, or too long ago.
func find(row *[4]echo, sum uint64, at time.Duration) *echo {
	least := &row[0]
	for i := range row {
		one := &row[i]
		if one.count > 0 && at-one.since >= circlePeriod {
			*one = echo{}
		}
		if one.count > 0 && one.hash == sum {
			return one
		}
		if one.count < least.count {
			least = one
		}
	}
	*least = echo{hash: sum, since: at}
	return least
}
