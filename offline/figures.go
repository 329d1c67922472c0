package offline

import (
	"fmt"

	"golang.org/x/sys/unix"

	"gateway/broker/session"
)

// Figures are what is in a store. They mean the same whether a gateway runs on it or not.
type Figures struct {
	FileBytes     int64 `json:"file_bytes"` // as far as the file is in use
	FreeBytes     int64 `json:"free_bytes"` // of these, free for new records, about while a gateway runs
	DiskBytes     int64 `json:"disk_bytes"` // room that the file takes on the disk
	Sessions      int   `json:"sessions"`
	Subscriptions int   `json:"subscriptions"`
	Received      int   `json:"received_identifiers"` // of incoming QoS 2 messages
	Messages      int64 `json:"waiting_messages"`     // in queues and not Done, each queue counted
	Bytes         int64 `json:"waiting_bytes"`        // of their PUBLISH packets
	Retained      int   `json:"retained_messages"`
}

// Figures returns what is on disk now, without reading the queues. It is not for those who ask often.
func (s *Store) Figures() (f Figures, err error) {
	err = s.view(func(src source) error {
		f = Figures{}
		return f.count(src, func(err error) { s.damaged("a figure", err) })
	})
	stats := s.Stats()
	f.FileBytes, f.FreeBytes, f.DiskBytes = stats.FileBytes, stats.FreeBytes, stats.DiskBytes
	return f, err
}

// FiguresOf reads the figures of a file that no gateway has (ErrInUse), all of which it has to read. It returns an
// error if something cannot be read, and what it has counted.
func FiguresOf(path string) (f Figures, err error) {
	problems := 0
	err = readFile(path, func(error) { problems++ }, func(src *imageSource, _ int64) error {
		if err := f.count(src, src.bad); err != nil {
			return err
		}
		for _, bucket := range []int{bucketMeta, bucketQueue, bucketBodies, bucketRefs} { // what pages they have
			if err := src.each(bucket, func(_, _ []byte) error { return nil }); err != nil {
				return err
			}
		}
		const metas = 2
		f.FileBytes = int64(src.im.pages) * pageSize
		f.FreeBytes = f.FileBytes - int64(len(src.seen)+metas)*pageSize
		return nil
	})
	var info unix.Stat_t
	if unix.Stat(path, &info) == nil {
		f.DiskBytes = info.Blocks * diskBlock
	}
	if err == nil && problems > 0 {
		err = fmt.Errorf("%w: %d problems; 'gateway store check' names them", ErrDamaged, problems)
	}
	if err != nil {
		return f, fmt.Errorf("figures of %s: %w", path, err)
	}
	return f, nil
}

// count adds what is not about the file.
func (f *Figures) count(src source, bad func(error)) error {
	c, err := readContents(src, bad)
	if err != nil {
		return err
	}
	f.Sessions = len(c.sessions)
	for _, subscriptions := range c.subscriptions {
		f.Subscriptions += len(subscriptions)
	}
	for _, ids := range c.received {
		f.Received += len(ids)
	}
	for number, at := range c.cursors {
		if at.removed {
			continue
		}
		messages, bytes := left(src, number, at)
		f.Messages, f.Bytes = f.Messages+messages, f.Bytes+bytes
	}
	return src.each(bucketRetained, func(_, _ []byte) error { f.Retained++; return nil })
}

// left returns how many messages of a queue are not Done, and the bytes of their PUBLISH packets. A position that
// is Done need not have a record: its message may have been sent early, and never stored.
func left(src source, number uint64, at *cursor) (messages, bytes int64) {
	messages, bytes = at.count, at.bytes
	for position, stage := range at.stages {
		if stage != session.Done {
			continue
		}
		if rec := src.get(bucketQueue, queueKey(number, position)); rec != nil {
			_, size := weight(rec)
			messages, bytes = messages-1, bytes-size
		}
	}
	return messages, bytes
}
