package offline

import (
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// What a large backlog has left behind is given back to the file system when this much of the file
// holds nothing, and more than what holds something; then not again for a while, in which the file may
// need the room once more.
const (
	holesAt    = 16 << 20
	holesPause = time.Hour
	holesRetry = time.Second / 10 // when somebody reads what was free a moment ago
)

const (
	holePiece = 1 << 10 // pages that one transaction looks at: it takes no longer than a commit
	holeRun   = 16      // free pages beside one another that are worth a hole
)

// A puncher gives free pages back to the file system, for the committer.
type puncher struct {
	worth int64     // bytes that are worth to be given back
	after time.Time // no piece before
	next  int64     // page with which the next piece begins
	freed int64     // bytes of the pieces before
}

// due returns how long it is until the next piece of the file is looked at for free pages, negative
// if none is to be.
func (p *puncher) due(c *committer) time.Duration {
	c.mu.Lock()
	spare := c.stats.DiskBytes - c.used
	c.mu.Unlock()
	switch {
	case c.why() != nil || c.deadN >= c.sweepAt || c.file.unsound() != nil:
		return -1 // there are more urgent things, or there will soon be more to give back, or nothing is to be touched
	case p.next == 0 && spare < max(p.worth, c.used):
		return -1
	}
	return max(time.Until(p.after), 0)
}

// punch gives back the free pages of the next piece of the file.
func (p *puncher) punch(c *committer) {
	next, freed, err := c.file.punch(p.next, holePiece)
	p.next = next
	p.freed += freed
	switch {
	case errors.Is(err, errInReading):
		p.after = time.Now().Add(holesRetry)
	case err != nil || next == 0:
		if err != nil {
			c.log.Warn("free room within the store's file cannot be given back to the file system: it stays the store's", "error", err, "again_in", holesPause)
		} else {
			c.log.Info("free room within the store's file was given back to the file system", "bytes", p.freed)
		}
		p.next, p.freed, p.after = 0, 0, time.Now().Add(holesPause)
		c.used = c.measure(c.file)
	}
}

// errInReading tells that a page which is free may still be read.
var errInReading = errors.New("somebody still reads what was free a moment ago")

// punch makes holes of the free pages among so many from one on, and returns the page to go on with, 0
// at the end, and how many bytes it has given back. Nobody may update the file meanwhile.
//
// A page that is free is not read any more, and whether a power cut keeps a hole does not matter. Free
// are the pages that neither the last commit, which is on disk, nor any transaction that reads refers to.
// bbolt tells them from those that are pending only in numbers: if none is pending, all are free.
func (f *file) punch(from, most int64) (next, freed int64, err error) {
	err = f.doubted(guard(func() error {
		db := f.db.Load()
		if err := nothing(db); err != nil {
			return err
		}
		if db.Stats().PendingPageN > 0 {
			next = from
			return errInReading
		}
		from = f.data(from)
		tx, err := db.Begin(true)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		end := tx.Size() / pageSize
		if next = from + most; next >= end {
			next = 0
		}
		run := int64(0)
		for page := from; page <= min(from+most, end); page++ {
			free := false
			if page < min(from+most, end) {
				info, err := tx.Page(int(page))
				if err != nil {
					return err
				}
				free = info.Type == "free"
			}
			switch {
			case free:
				run++
			case run >= holeRun:
				if err := f.hole((page-run)*pageSize, run*pageSize); err != nil {
					return err
				}
				freed += run * pageSize
				fallthrough
			default:
				run = 0
			}
		}
		return nil
	}))
	return next, freed, err
}

// nothing begins and ends a transaction, so that bbolt looks which pages nobody reads any more.
func nothing(db *bolt.DB) error {
	tx, err := db.Begin(true)
	if err != nil {
		return err
	}
	return tx.Rollback()
}

// hole gives a part of the file back to the file system.
func (f *file) hole(off, size int64) error {
	err := unix.Fallocate(int(f.handle.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, size)
	if err != nil {
		return fmt.Errorf("fallocate: %w", err)
	}
	//crash:hole-made
	return nil
}

// data returns the first page from one on that is not in a hole, as far as the file system tells.
func (f *file) data(page int64) int64 {
	off, err := unix.Seek(int(f.handle.Fd()), page*pageSize, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // there is none
		return 1 << 50
	case err != nil:
		return page
	}
	return max(off/pageSize, page)
}

// room returns how many bytes the file takes on the disk.
func (f *file) room() int64 {
	var s unix.Stat_t
	if unix.Fstat(int(f.handle.Fd()), &s) != nil {
		return 0
	}
	return s.Blocks * diskBlock
}

// diskBlock is in bytes, whatever the file system's are (stat(2)).
const diskBlock = 512
