package crash

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"gateway/broker/packet"
)

// A place is where messages arrive.
type place string

const (
	atCloud place = "the cloud"
	atLocal place = "the local subscriber"
	// atHoard is a session that nobody comes for. It has room for some messages; then it drops
	// the oldest.
	atHoard place = "the hoard"
)

// A ledger has an account for every topic: what was sent, what was acknowledged to the sender,
// and what arrived where. Messages are numbered from 0 in each topic.
type ledger struct {
	// repeats says that the cloud may send what it has released at QoS 2 once more: mosquitto 2.0.11
	// does so in 5.0, PUBLISH after PUBREL, when a client comes back many times in a second.
	repeats bool
	// strict says that the cloud keeps the order of its own messages too.
	strict bool
	// shuffles says that the cloud does not keep the order in which it passes on what the gateway has
	// sent: that order is looked at on the wire.
	shuffles bool
	mu       sync.Mutex
	accounts map[string]*account
	faults   []string // what can never be right again, in the order of discovery
	arrived  int
}

type account struct {
	qos    packet.QoS
	ours   bool   // the gateway has acknowledged it, not the cloud
	acked  []bool // by number
	places map[place]*arrivals
}

type arrivals struct {
	count   []int // by number: how often
	line    []int // the numbers in the order in which they came
	newest  int   // the highest number that arrived
	settled int   // all numbers below were acknowledged and arrived
}

func newLedger() *ledger { return &ledger{accounts: map[string]*account{}} }

// send opens an entry for the next message of a topic, which is to arrive at some places, and
// returns its number.
func (l *ledger) send(topic string, qos packet.QoS, to ...place) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[topic]
	if a == nil {
		a = &account{qos: qos, ours: slices.Contains(to, atCloud), places: map[place]*arrivals{}}
		for _, p := range to {
			a.places[p] = &arrivals{newest: -1}
		}
		l.accounts[topic] = a
	}
	a.acked = append(a.acked, false)
	for _, at := range a.places {
		at.count = append(at.count, 0)
	}
	return len(a.acked) - 1
}

// accountOf is the account of a topic of which these numbers were acknowledged, others perhaps sent,
// and none has arrived at some places.
func accountOf(qos packet.QoS, acked, sent []int, to ...place) *account {
	size := 0
	for _, n := range slices.Concat(acked, sent) {
		size = max(size, n+1)
	}
	a := &account{qos: qos, ours: true, acked: make([]bool, size), places: map[place]*arrivals{}}
	for _, p := range to {
		a.places[p] = &arrivals{newest: -1, count: make([]int, size)}
	}
	for _, n := range acked {
		a.acked[n] = true
	}
	return a
}

// behind reports whether a place has so many messages of a topic still to get that more would not show more: on
// a machine where the gateway dies faster than it delivers, the quotas of those who do come would be used up.
func (l *ledger) behind(topic string) bool {
	const most = 300
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[topic]
	if a == nil {
		return false
	}
	for p, at := range a.places {
		arrived := 0
		for _, n := range at.count {
			if n > 0 {
				arrived++
			}
		}
		if p != atHoard && len(at.count)-arrived > most {
			return true
		}
	}
	return false
}

// withdraw takes back the newest message of a topic, which was not sent after all.
func (l *ledger) withdraw(topic string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[topic]
	a.acked = a.acked[:len(a.acked)-1]
	for _, at := range a.places {
		at.count = at.count[:len(at.count)-1]
	}
}

func (l *ledger) acknowledge(topic string, number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accounts[topic].acked[number] = true
}

// arrive enters the arrival of a message whose payload begins with its number. QoS 1 comes at
// least once, QoS 2 exactly once, each for the first time in the order of sending.
func (l *ledger) arrive(p place, topic string, payload []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.arrived++
	number, at := l.find(p, topic, payload)
	if at == nil {
		l.fault("%s: %s %.40q arrived, which nobody sent there", p, topic, payload)
		return
	}
	at.count[number]++
	at.line = append(at.line, number)
	ours := l.accounts[topic].ours
	switch {
	case at.count[number] == 1 && number < at.newest && (ours || l.strict) && !(p == atCloud && l.shuffles):
		// The cloud may do this: mosquitto 2.0.11 sends a fresh message before those that have
		// waited for a client which has just come back.
		l.fault("%s: %s number %d arrived behind %d", p, topic, number, at.newest)
	case at.count[number] == 1:
		at.newest = max(at.newest, number)
	case l.accounts[topic].qos == 2 && (ours || !l.repeats):
		l.fault("%s: %s number %d arrived %d times at QoS 2", p, topic, number, at.count[number])
	}
}

func (l *ledger) find(p place, topic string, payload []byte) (int, *arrivals) {
	var number int
	a := l.accounts[topic]
	if _, err := fmt.Sscan(string(payload), &number); err != nil || a == nil || number < 0 || number >= len(a.acked) {
		return 0, nil
	}
	return number, a.places[p]
}

func (l *ledger) fault(format string, args ...any) {
	l.faults = append(l.faults, fmt.Sprintf(format, args...))
}

// A backlog is what waits in a store, by topic in its order.
type backlog map[place]map[string][]int

// lost returns the messages that were acknowledged to their senders, have not arrived, and do
// not wait either, and those that wait in the wrong order. With waiting, it looks only at what the
// gateway itself has acknowledged.
func (l *ledger) lost(waiting backlog) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lost []string
	for _, topic := range slices.Sorted(maps.Keys(l.accounts)) {
		a := l.accounts[topic]
		if waiting != nil && !a.ours {
			continue // it may wait in the cloud
		}
		for p, at := range a.places {
			queued := waiting[p][topic]
			if !at.inOrder(queued, a.qos) {
				lost = append(lost, fmt.Sprintf("%s: %s waits out of order: %v", p, topic, queued))
			}
			for i := at.settled; i < len(a.acked); i++ {
				if a.acked[i] && at.count[i] == 0 && !slices.Contains(queued, i) {
					lost = append(lost, fmt.Sprintf("%s: %s number %d was acknowledged and is lost", p, topic, i))
				}
				if i == at.settled && a.acked[i] && at.count[i] > 0 {
					at.settled++
				}
			}
		}
	}
	return lost
}

// hoarded compares the hoard with what was acknowledged: in = still queued + dropped and reported.
// What is gone must be older than what is there, and not be more than was reported.
func (l *ledger) hoarded(waiting map[string][]int, reported int64) (faults []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	gone := int64(0)
	for topic, a := range l.accounts {
		if !a.ours {
			continue
		}
		queued := make(map[int]bool)
		oldest := len(a.acked)
		for _, n := range waiting[topic] {
			queued[n], oldest = true, min(oldest, n)
		}
		for n, acked := range a.acked {
			if !acked || queued[n] {
				continue
			}
			if gone++; n > oldest {
				faults = append(faults, fmt.Sprintf("%s: %s number %d was acknowledged and is not there, though %d is: %v", atHoard, topic, n, oldest, waiting[topic]))
			}
		}
	}
	if gone > reported {
		faults = append(faults, fmt.Sprintf("%s: %d acknowledged messages are gone, %d were reported as dropped", atHoard, gone, reported))
	}
	return faults
}

// inOrder reports whether numbers wait in their order. A QoS 1 message that its sender has sent
// again may be there again, behind the first, which may have arrived.
func (at *arrivals) inOrder(numbers []int, qos packet.QoS) bool {
	newest := -1
	seen := make(map[int]bool, len(numbers))
	for _, n := range numbers {
		again := seen[n] || n < len(at.count) && at.count[n] > 0
		if n < newest && !again || seen[n] && qos == 2 {
			return false
		}
		newest, seen[n] = max(newest, n), true
	}
	return true
}

// open counts what was sent and has not arrived everywhere.
func (l *ledger) open() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.accounts {
		for _, at := range a.places {
			for _, count := range at.count[at.settled:] {
				if count == 0 {
					n++
				}
			}
		}
	}
	return n
}

// A balance is the sum of all accounts.
type balance struct{ sent, acked, arrived, again int }

func (b balance) String() string {
	return fmt.Sprintf("%d messages sent, %d acknowledged, %d arrivals, %d of them again at QoS 1", b.sent, b.acked, b.arrived, b.again)
}

func (l *ledger) sum() (b balance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.arrived = l.arrived
	for _, a := range l.accounts {
		b.sent += len(a.acked)
		for _, acked := range a.acked {
			if acked {
				b.acked++
			}
		}
		for _, at := range a.places {
			for _, count := range at.count {
				b.again += max(count-1, 0)
			}
		}
	}
	return b
}

// wrong returns what can never be right again.
func (l *ledger) wrong() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.faults)
}
