package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/broker/packet"
)

// clock is the format of times in the books, as mosquitto and the gateway have UTC in their logs.
const clock = "15:04:05.000"

// A ledger has an account for every topic: what was sent, what was acknowledged to the sender,
// what arrived. Messages are numbered from 0 in each topic.
type ledger struct {
	mu       sync.Mutex
	accounts map[string]*account
	strange  []string // arrivals that nobody sent
	doubled  []string // QoS 2 messages that arrived again
	arrivals int

	overtaking bool // fresh messages may arrive before older ones
}

type account struct {
	qos     packet.QoS
	acked   []bool // by number
	arrived []int  // by number: how often
	order   []int  // numbers as they arrived for the first time
	first   []int  // by number: which arrival of all that was
}

func newLedger() *ledger { return &ledger{accounts: map[string]*account{}} }

// send opens an entry for the next message of a topic and returns its number.
func (l *ledger) send(topic string, qos packet.QoS) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[topic]
	if a == nil {
		a = &account{qos: qos}
		l.accounts[topic] = a
	}
	a.acked, a.arrived, a.first = append(a.acked, false), append(a.arrived, 0), append(a.first, 0)
	return len(a.acked) - 1
}

func (l *ledger) acknowledge(topic string, number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accounts[topic].acked[number] = true
}

// arrive enters the arrival of a message whose payload begins with its number.
func (l *ledger) arrive(topic string, payload []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.arrivals++
	var number int
	a := l.accounts[topic]
	if _, err := fmt.Sscan(string(payload), &number); err != nil || a == nil || number < 0 || number >= len(a.arrived) {
		l.strange = append(l.strange, fmt.Sprintf("%s %.40q", topic, payload))
		return
	}
	if a.arrived[number]++; a.arrived[number] == 1 {
		a.order = append(a.order, number)
		a.first[number] = l.arrivals
	} else if a.qos == 2 {
		l.doubled = append(l.doubled, fmt.Sprintf("%s number %d came as arrival %d and again as %d, at %s",
			topic, number, a.first[number], l.arrivals, time.Now().UTC().Format(clock)))
	}
}

// missing counts the messages that were acknowledged and have not arrived.
func (l *ledger) missing() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, a := range l.accounts {
		for i, acked := range a.acked {
			if acked && a.arrived[i] == 0 {
				n++
			}
		}
	}
	return n
}

// twice counts the QoS 2 messages that arrived again.
func (l *ledger) twice() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.doubled)
}

func (l *ledger) total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.arrivals
}

// audit prints the accounts and fails the test for every promise that was not kept: QoS 1 at
// least once, QoS 2 exactly once, in the order of sending.
func (l *ledger) audit(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var table strings.Builder
	fmt.Fprintf(&table, "%-12s %3s %8s %8s %8s %8s %8s %8s\n", "topic", "qos", "sent", "acked", "arrived", "lost", "twice", "order")
	for _, topic := range slices.Sorted(maps.Keys(l.accounts)) {
		a := l.accounts[topic]
		acked, lost, twice, disorder := a.count()
		fmt.Fprintf(&table, "%-12s %3d %8d %8d %8d %8d %8d %8d\n", topic, a.qos, len(a.acked), acked, len(a.order), lost, twice, disorder)
		if lost > 0 {
			t.Errorf("%s: %d messages were acknowledged and never arrived", topic, lost)
		}
		if twice > 0 && a.qos == 2 {
			t.Errorf("%s: %d QoS 2 messages arrived more than once", topic, twice)
		}
		if disorder > 0 && !l.overtaking {
			i := 1
			for a.order[i] > a.order[i-1] {
				i++
			}
			t.Errorf("%s: %d messages arrived behind a later one, the first is number %d, arrival %d of all, after number %d", topic, disorder,
				a.order[i], a.first[a.order[i]], a.order[i-1])
		}
		if acked == 0 {
			t.Errorf("%s: nothing was acknowledged, so nothing is shown", topic)
		}
	}
	t.Logf("\n%s", &table)
	for _, d := range l.doubled[:min(len(l.doubled), 5)] {
		t.Log(d)
	}
	if len(l.strange) > 0 {
		t.Errorf("%d messages arrived that nobody sent, the first is %s", len(l.strange), l.strange[0])
	}
}

func (a *account) count() (acked, lost, twice, disorder int) {
	for i, ok := range a.acked {
		if ok {
			acked++
			if a.arrived[i] == 0 {
				lost++
			}
		}
		if a.arrived[i] > 1 {
			twice++
		}
	}
	for i := 1; i < len(a.order); i++ {
		if a.order[i] < a.order[i-1] {
			disorder++
		}
	}
	return acked, lost, twice, disorder
}
