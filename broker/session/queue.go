package session

import (
	"slices"
	"sort"

	"gateway/broker/packet"
)

// Span is the number of packet identifiers: positions that far apart share one.
const Span = 65535

// MaxWindow is how far apart the oldest and the newest message in flight may be, whatever the
// receiver allows. After a restart it bounds what may have been sent before.
const MaxWindow = 1024

// PacketID returns the packet identifier of the message at a position, counted from 1. It needs
// no memory, and is the same after any restart, which is what QoS 2 asks for.
func PacketID(position uint64) uint16 { return uint16((position-1)%Span) + 1 }

// An Entry is one message of a session's outgoing queue.
type Entry struct {
	Queued
	Stage Stage
	// Frees says that PUBREL has to go before PUBLISH, at QoS 2: the receiver may have the identifier for another
	// message, and would take this one for its repetition.
	Frees bool
}

// A Queue is the outgoing side of a session: its QoS 1 and QoS 2 messages in the order of their
// positions, and how far each has come. It holds a run of entries in memory, from the oldest
// that is not Done; what follows may still be in the store (Missing).
//
// A Queue is not safe for concurrent use. Its zero value is an empty queue.
type Queue struct {
	entries []Entry          // sorted by position, none of them Done at the front
	unsent  int              // index of the first entry that has not been sent on this connection
	sent    uint64           // positions below may have been sent on an earlier connection
	loaded  uint64           // positions below are in entries, or Done
	next    uint64           // positions from here on have not been given out
	bytes   int              // of the entries
	window  uint64           // how far what is in flight may reach: the receiver's Receive Maximum
	stages  map[uint64]Stage // of restored positions that are not in memory yet
	strange uint64           // see Summary
}

// RestoredQueue returns the queue that a summary tells of, all of it still in the store. Messages before
// the position sent may have been sent, 0: nobody knows. Nobody does of a store that was a backup.
func RestoredQueue(s *Summary, sent uint64) Queue {
	if sent == 0 || s.Strange > 0 {
		sent = min(s.Next, s.Head+MaxWindow)
	}
	return Queue{sent: sent, loaded: s.Head, next: s.Next, stages: s.Stages, strange: s.Strange}
}

// Resume begins a new connection, whose receiver takes window messages at a time: everything
// that is not Done will be sent, or sent again, from the oldest on [MQTT-4.4.0-1].
func (q *Queue) Resume(window uint16) {
	q.sent = Sent(q)
	q.window, q.unsent = min(uint64(window), MaxWindow), 0
}

// Push appends a message that has no position yet, for a session that lives in memory only.
func (q *Queue) Push(m Queued) {
	if q.next == 0 {
		q.next, q.loaded = 1, 1
	}
	m.Position = q.next
	q.next++
	q.loaded = q.next
	q.append(Entry{Queued: m})
}

// Committed tells of a message that the store has put into the queue. It is kept in memory if
// the ones before it are, and fewer than max wait there; else it is Missing until Fill.
func (q *Queue) Committed(m Queued, max int) {
	if q.next == 0 {
		q.loaded = 1
	}
	contiguous := q.loaded >= q.next
	q.next = m.Position + 1
	if contiguous && len(q.entries)-q.unsent < max {
		q.loaded = q.next
		q.append(Entry{Queued: m})
	}
}

// Unload forgets what the store has too, for a receiver that is away: everything behind the last
// entry that was sent, or acknowledged, on this connection or before.
func (q *Queue) Unload() {
	keep := q.unsent
	for i := keep; i < len(q.entries); i++ {
		if q.entries[i].Stage != Pending {
			keep = i + 1
		}
	}
	if keep == len(q.entries) {
		return
	}
	q.loaded = q.entries[keep].Position
	for i := keep; i < len(q.entries); i++ {
		q.bytes -= size(&q.entries[i])
	}
	q.entries = slices.Clone(q.entries[:keep])
}

// Missing returns the position from which messages have to be read from the store before Next
// can go on, and the position after the last one that has been given out; ok is false when none
// have to.
func (q *Queue) Missing() (from, limit uint64, ok bool) {
	return q.loaded, q.next, q.unsent == len(q.entries) && q.loaded < q.next
}

// Fill adds what the store has from position from on: the messages found, which are complete up
// to the position limit. A fill that does not continue the queue is ignored, and so is what the
// queue has not been told of yet: Committed will.
func (q *Queue) Fill(from uint64, found []Queued, limit uint64) {
	if from != q.loaded {
		return
	}
	limit = min(limit, q.next)
	for _, m := range found {
		if m.Position >= limit {
			break
		}
		e := Entry{Queued: m, Stage: q.stages[m.Position]}
		delete(q.stages, m.Position)
		if e.Stage != Done {
			q.append(e)
		}
	}
	q.loaded = limit
}

// Next returns the next entry to send on this connection, and marks it as sent. An Accepted one
// goes out as PUBREL, a Pending one as PUBLISH. ok is false when nothing waits in memory or the
// window is full [MQTT-3.3.4-9]. The entry is valid until the queue is used again.
func (q *Queue) Next() (e *Entry, ok bool) {
	for q.unsent < len(q.entries) {
		e := &q.entries[q.unsent]
		if e.Stage == Done {
			q.unsent++
			continue
		}
		if e.Stage == Pending && e.Position-q.entries[0].Position >= q.window {
			return nil, false
		}
		q.unsent++
		return e, true
	}
	return nil, false
}

// Peek returns what Next of a queue would, and marks nothing.
func Peek(q *Queue) (e *Entry, ok bool) {
	unsent := q.unsent
	e, ok = q.Next()
	q.unsent = unsent
	return e, ok
}

// Find returns the entry in flight that a packet identifier stands for, nil if there is none.
func (q *Queue) Find(id uint16) *Entry { return find(q.entries[:q.unsent], id) }

// find returns the entry that a packet identifier stands for, nil if it is Done or not there.
func find(entries []Entry, id uint16) *Entry {
	if len(entries) == 0 || id == 0 {
		return nil
	}
	first := entries[0].Position
	position := first + uint64((int(id)-int(PacketID(first))+Span)%Span)
	i := sort.Search(len(entries), func(i int) bool { return entries[i].Position >= position })
	if i == len(entries) || entries[i].Position != position || entries[i].Stage == Done {
		return nil
	}
	return &entries[i]
}

// Finish marks an entry as Done and forgets it.
func (q *Queue) Finish(e *Entry) {
	q.bytes -= size(e)
	e.Stage, e.Message, e.SubscriptionIDs = Done, nil, nil
	n := 0
	for n < len(q.entries) && q.entries[n].Stage == Done {
		n++
	}
	if n == 0 {
		return
	}
	q.entries = q.entries[n:]
	q.unsent = max(q.unsent-n, 0)
	if len(q.entries) == 0 {
		q.entries = nil
	}
}

// Transferable returns those of the messages found in the store, or with nil of those in memory, that came
// by a shared subscription and that another of its members may get instead of this receiver: at QoS 1,
// and at QoS 2 if they were never sent [MQTT-4.8.2-5]. open is how many of all are not acknowledged.
func (q *Queue) Transferable(found []Queued) (some []Queued, open int) {
	if found == nil {
		for i := range q.entries {
			if q.entries[i].Stage != Done {
				found = append(found, q.entries[i].Queued)
			}
		}
	}
	for _, m := range found {
		stage := q.stages[m.Position]
		i := sort.Search(len(q.entries), func(i int) bool { return q.entries[i].Position >= m.Position })
		if i < len(q.entries) && q.entries[i].Position == m.Position {
			stage = q.entries[i].Stage
		}
		if stage != Pending {
			continue
		}
		open++
		if m.Share != "" && (m.QoS == 1 || m.Position >= Sent(q)) {
			some = append(some, m)
		}
	}
	return some, open
}

// Sent returns the position before which messages of a queue may have been sent.
func Sent(q *Queue) uint64 {
	if q.unsent == 0 {
		return q.sent
	}
	return max(q.sent, q.entries[q.unsent-1].Position+1)
}

// Len returns how many positions the queue spans, in memory and in the store: an upper bound of
// the messages that are not Done.
func (q *Queue) Len() int {
	if len(q.entries) > 0 {
		return int(q.next - q.entries[0].Position)
	}
	return int(q.next - q.loaded)
}

// Undelivered returns how many messages the receiver has not acknowledged.
func (q *Queue) Undelivered() int {
	n := int(q.next - q.loaded) // in the store only
	for position, stage := range q.stages {
		if position >= q.loaded && stage != Pending {
			n--
		}
	}
	for i := range q.entries {
		if q.entries[i].Stage == Pending {
			n++
		}
	}
	return n
}

// Bytes returns the bytes of the messages in memory.
func (q *Queue) Bytes() int { return q.bytes }

func (q *Queue) append(e Entry) {
	e.Frees = e.QoS == 2 && e.Position < q.strange
	q.entries = append(q.entries, e)
	q.bytes += size(&e)
}

// size returns what an entry costs in memory, about.
func size(e *Entry) int {
	const overhead = 128 // the entry, and what the message has beside its bytes
	return overhead + e.Message.Publish.Size(packet.V5)
}

// Again reports whether the entry may have been sent on an earlier connection, so that its PUBLISH
// carries DUP [MQTT-3.3.1-1].
func (q *Queue) Again(e *Entry) bool { return e.Position < q.sent }
