package packet

import "hash/maphash"

// A Decoder makes packets from bytes, for one connection. Each method is given the body of a
// packet, which is what follows the fixed header. The zero Decoder is ready: Connect sets
// Version, or a client does for itself; until then packets are read as in 3.1.1.
//
// An error is an *Error. A Decoder is not safe for concurrent use.
type Decoder struct {
	Version Version
	// Lends says that the properties of a PUBLISH, like its payload, are valid until the next one is
	// read: whoever keeps them copies them. What they refer to is not lent.
	Lends bool

	lent   *PublishProperties
	padded bool        // a Remaining Length had more bytes than it needs, before 5.0
	topics *topicCache // nil before the first PUBLISH: most clients only listen
}

func (d *Decoder) v5() bool { return d.Version >= V5 }

// A topicCache keeps the topic names that a connection published to lately, so that a device
// which repeats a few topics costs no string each time. It is made of pairs: a name belongs to
// one of them, with the newer of its two in front.
type topicCache [8]string

// maxCached is the longest name that is kept, in bytes, so that a cache holds at most 2 KB.
const maxCached = 256

// topicSeed makes the pairs unpredictable to a client.
var topicSeed = maphash.MakeSeed()

// find returns the cached string equal to b, and the slot at the front of its pair.
func (c *topicCache) find(b []byte) (name string, slot int, ok bool) {
	if c == nil || len(b) == 0 || len(b) > maxCached {
		return "", 0, false
	}
	slot = 2 * int(maphash.Bytes(topicSeed, b)%uint64(len(c)/2))
	for _, s := range [2]int{slot, slot + 1} {
		if c[s] == string(b) {
			return c[s], slot, true
		}
	}
	return "", slot, false
}

// add keeps a name in the slot that find gave.
func (c *topicCache) add(name string, slot int) {
	if name == "" || len(name) > maxCached {
		return
	}
	c[slot], c[slot+1] = name, c[slot]
}
