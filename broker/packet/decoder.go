package packet

import "hash/maphash"

// A Decoder makes packets from bytes, for one connection. Each method is given the body of a
// packet, which is what follows the fixed header. The zero Decoder is ready: Connect sets
// Version, or a client does for itself; until then packets are read as in 3.1.1.
//
// An error is an *Error. A Decoder is not safe for concurrent use.
type Decoder struct {
	Version Version
	topics  topicCache
}

func (d *Decoder) v5() bool { return d.Version >= V5 }

// A topicCache keeps the topic names that a connection published to lately, so that a device
// which repeats a few topics costs no string each time. A name is in one of two neighbouring
// slots; the newer of two that want the same comes first.
type topicCache [8]string

// maxCached is the longest name that is kept, in bytes, so that a cache holds at most 2 KB.
const maxCached = 256

// topicSeed makes the slots unpredictable to a client.
var topicSeed = maphash.MakeSeed()

// find returns the cached string equal to b, and the slot where it is or belongs.
func (c *topicCache) find(b []byte) (name string, slot int, ok bool) {
	if len(b) == 0 || len(b) > maxCached {
		return "", 0, false
	}
	slot = int(maphash.Bytes(topicSeed, b) % uint64(len(c)))
	for _, s := range [2]int{slot, slot ^ 1} {
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
	c[slot^1] = c[slot]
	c[slot] = name
}
