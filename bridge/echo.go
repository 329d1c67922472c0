package bridge

import (
	"hash/maphash"
	"sync"
	"time"
)

// echoLimit is how often the same message may leave within a second before it is taken to go round
// in a circle.
const echoLimit = 100

// Echoes notice a message that leaves again and again. MQTT 3.1.1 can carry no count of crossings, and
// a sensor may well say the same thing often: so it is told, and nothing is done about it.
type echoes struct {
	mu    sync.Mutex
	slots [64]echo // by hash; what falls into the same slot displaces what is there
}

type echo struct {
	hash  uint64
	since time.Time
	count int
}

var echoSeed = maphash.MakeSeed()

// circles notes a message that leaves now. It reports whether it has just reached the limit.
func (e *echoes) circles(topic string, payload []byte, now time.Time) bool {
	var h maphash.Hash
	h.SetSeed(echoSeed)
	h.WriteString(topic)
	h.WriteByte(0)
	h.Write(payload)
	sum := h.Sum64()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &e.slots[sum%uint64(len(e.slots))]
	if s.hash != sum || now.Sub(s.since) >= time.Second {
		*s = echo{hash: sum, since: now}
	}
	s.count++
	return s.count == echoLimit
}
