package service

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"gateway/broker/auth/recent"
	"gateway/broker/auth/template"
)

// maxNames bounds the names of a client, in bytes, whose answers are kept: strangers choose them.
const maxNames = 4 << 10

// A key stands for all that an answer depends on.
type key [sha256.Size]byte

// A cache has the answers that are still good.
type cache struct {
	secret [32]byte // of this process: nobody outside can tell which inputs have the same key
	mu     sync.Mutex
	table  *recent.Table[key, cached]
}

type cached struct {
	answer       answer
	client, user string // for Purge
	until        time.Time
}

func newCache(size int) *cache {
	c := &cache{table: recent.New[key, cached](size)}
	_, _ = rand.Read(c.secret[:]) // it never fails
	return c
}

// key returns the key of the values that questions use. Their lengths go in, too: no two sets of
// values make the same bytes.
func (c *cache) key(v *template.Values, qs ...*question) key {
	mac := hmac.New(sha256.New, c.secret[:])
	for _, q := range qs {
		if q == nil {
			continue
		}
		write(mac, q.what)
		for _, i := range q.uses {
			write(mac, v[i])
		}
	}
	return key(mac.Sum(nil))
}

// write writes a text with its length before it.
func write(w interface{ Write([]byte) (int, error) }, s string) {
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(s)))
	_, _ = w.Write(length[:]) // a hash takes everything
	_, _ = w.Write([]byte(s))
}

func (c *cache) get(k key) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.table.Get(k)
	if !ok || time.Now().After(e.until) {
		return answer{}, false
	}
	return e.answer, true
}

// put keeps an answer for life, if it is one to be kept.
func (c *cache) put(k key, client, user string, a answer, life time.Duration) {
	if life <= 0 || len(client)+len(user) > maxNames {
		return
	}
	until := time.Now().Add(life)
	if !a.expires.IsZero() && a.expires.Before(until) {
		until = a.expires
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.Put(k, cached{a, client, user, until})
}

// purge forgets the answers about some clients.
func (c *cache) purge(match func(client, user string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.Drop(func(_ key, e cached) bool { return match(e.client, e.user) })
}
