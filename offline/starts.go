package offline

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	mostStarts = 64               // of the machine that are remembered
	noteEvery  = 10 * time.Minute // how old the newest time in the file may become, while something is committed
)

// remember reads what the file says about times before this start of the machine, and counts this
// one: the number of the last one if the machine has not started again since, or else the next.
func (c *clock) remember(tx *bolt.Tx) error {
	meta := tx.Bucket(bucketNames[bucketMeta])
	newest, starts := parseStarts(meta.Get(keyStarts))
	number, id := parseBoot(meta.Get(keyBoot))
	now := bootID()
	if now == "" || id != now || number == 0 {
		number++
	}
	c.Raise(newest)
	if s := starts[number]; s.known {
		c.Resume(c.opened, s.day.Add(c.uptime))
	}
	delete(starts, number)
	c.boot, c.starts = number, starts
	if err := meta.Put(keyBoot, bootRecord(number, now)); err != nil {
		return err
	}
	return c.note(tx, true)
}

// note writes down when the machine started, and what time it is, if the file says otherwise. A
// later start of the machine can date by it what was recorded before the clock was set.
func (c *clock) note(tx *bolt.Tx, always bool) error {
	opened, known := c.Date(c.opened)
	n := note{start{opened.Add(-c.uptime), known}, time.Now()}
	same := n.known == c.noted.known && n.day.Sub(c.noted.day).Abs() < time.Second
	if same && n.at.Sub(c.noted.at) < noteEvery && !always {
		return nil
	}
	meta := tx.Bucket(bucketNames[bucketMeta])
	newest, _ := parseStarts(meta.Get(keyStarts))
	if known {
		newest = opened.Add(n.at.Sub(c.opened))
	}
	starts := maps.Clone(c.starts)
	starts[c.boot] = n.start
	tx.OnCommit(func() { c.noted = n })
	return meta.Put(keyStarts, startsRecord(newest, starts))
}

// startsRecord has the newest time that was known, and the last starts of the machine.
func startsRecord(newest time.Time, starts map[uint64]start) []byte {
	numbers := slices.Sorted(maps.Keys(starts))
	numbers = numbers[max(0, len(numbers)-mostStarts):]
	rec := binary.BigEndian.AppendUint64(unsealed(16+len(numbers)*12), uint64(max(newest.UnixNano(), 0)))
	for _, n := range numbers {
		rec = binary.AppendUvarint(rec, n)
		rec = binary.BigEndian.AppendUint64(rec, uint64(starts[n].day.UnixNano()))
		rec = append(rec, 0)
		if starts[n].known {
			rec[len(rec)-1] = 1
		}
	}
	return seal(rec)
}

// parseStarts reads what startsRecord has written. A file that has none, or one that cannot be
// read, knows nothing.
func parseStarts(rec []byte) (newest time.Time, starts map[uint64]start) {
	starts = make(map[uint64]start)
	b, err := unseal(rec)
	if err != nil {
		return time.Time{}, starts
	}
	p := parser{b: b}
	newest = time.Unix(0, int64(p.uint64()))
	for len(p.b) > 0 {
		number, day, known := p.uvarint(), p.uint64(), p.byte()
		if p.short {
			break
		}
		starts[number] = start{time.Unix(0, int64(day)), known == 1}
	}
	return newest, starts
}
