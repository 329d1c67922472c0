package broker

import "sync"

// A draft is what waits to be written to a connection. It has a buffer, which grows, only while
// there is something.
type draft struct {
	b       *[]byte // nil: nothing
	packets int     // in it that are not counted yet
	counted int     // bytes of it that are
}

const (
	firstDraft = 1 << 10   // bytes of a new buffer
	mostDraft  = 256 << 10 // bytes beyond which a buffer is not kept for others: what waits for a client by default
)

var drafts = sync.Pool{New: func() any { b := make([]byte, 0, firstDraft); return &b }}

// open returns the buffer to append a packet to.
func (d *draft) open() *[]byte {
	d.packets++
	if d.b == nil {
		d.b = drafts.Get().(*[]byte)
	}
	return d.b
}

func (d *draft) empty() bool { return d.b == nil }

// len returns how many bytes wait.
func (d *draft) len() int {
	if d.b == nil {
		return 0
	}
	return len(*d.b)
}

// take returns what waits; nothing does any more.
func (d *draft) take() draft {
	taken := *d
	*d = draft{}
	return taken
}

// count counts what has not been.
func (d *draft) count(s *Stats) {
	s.PacketsSent.Add(int64(d.packets))
	s.BytesSent.Add(int64(len(*d.b) - d.counted))
	d.packets, d.counted = 0, len(*d.b)
}

// free gives up what there is.
func (d *draft) free() {
	if d.b != nil && cap(*d.b) <= mostDraft {
		*d.b = (*d.b)[:0]
		drafts.Put(d.b)
	}
	*d = draft{}
}
