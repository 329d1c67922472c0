package offline

import (
	"crypto/sha256"
	"encoding/binary"
)

// formatVersion is the version of the whole file. A later one is refused.
const formatVersion = 1

// The buckets. docs/store-format.md describes their keys and values.
const (
	bucketMeta = iota
	bucketSessions
	bucketSubscriptions
	bucketReceived
	bucketCursors
	bucketQueue
	bucketBodies
	bucketRefs
	bucketRetained
	buckets
)

var bucketNames = [buckets][]byte{
	[]byte("meta"), []byte("sessions"), []byte("subscriptions"), []byte("received"), []byte("cursors"),
	[]byte("queue"), []byte("bodies"), []byte("refs"), []byte("retained"),
}

// The keys of the bucket meta.
var (
	keyFormat = []byte("format") // written last when a file is created: without it the file is none
	keyBoot   = []byte("boot")
	keyStarts = []byte("starts") // of the machine
	// keyStrange is from which positions on receivers have nothing any more that the store knows nothing of.
	keyStrange = []byte("strange")
)

// nameKey is the key of a client identifier, filter or topic. These may be twice as long as a key
// of bbolt: a long one is represented by its hash. The record has the name in full.
func nameKey(prefix []byte, name string) []byte {
	const longest = 1024
	if len(name) <= longest {
		key := make([]byte, 0, len(prefix)+1+len(name))
		return append(append(append(key, prefix...), 0), name...)
	}
	hash := sha256.Sum256([]byte(name))
	key := make([]byte, 0, len(prefix)+1+len(hash))
	return append(append(append(key, prefix...), 1), hash[:]...)
}

// numberKey is the key of a session by number, and the start of all keys that belong to it.
func numberKey(number uint64) []byte { return binary.BigEndian.AppendUint64(nil, number) }

func queueKey(number, position uint64) []byte {
	key := make([]byte, 0, 16)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(key, number), position)
}

// queuePosition returns the position in a key of the queue, if it belongs to the session.
func queuePosition(key []byte, number uint64) (uint64, bool) {
	if len(key) != 16 || binary.BigEndian.Uint64(key) != number {
		return 0, false
	}
	return binary.BigEndian.Uint64(key[8:]), true
}

func receivedKey(number uint64, id uint16) []byte {
	return binary.BigEndian.AppendUint16(numberKey(number), id)
}
