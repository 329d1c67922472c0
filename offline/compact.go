package offline

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A running store is compacted when its file has this size, when no more than a quarter of it is in
// use, and no more than one commit may write: then it takes no longer than a commit.
const (
	compactAt   = 16 << 20
	compactMost = batchBytes
)

// compactPause is how long the next attempt waits after one that failed.
const compactPause = 10 * time.Minute

// compactDue reports whether the file is to be compacted now.
func (c *committer) compactDue() bool {
	c.mu.Lock()
	size := c.stats.FileBytes
	c.mu.Unlock()
	return size >= c.compactAt && c.used <= min(size/4, compactMost) &&
		c.why() == nil && c.deadN < c.sweepAt && !time.Now().Before(c.compactAfter)
}

// compact makes the file as small as what is in it.
func (c *committer) compact() {
	before, _ := c.file.sizes()
	if err := c.file.compact(); err != nil {
		c.compactAfter = time.Now().Add(compactPause)
		c.log.Warn("the store could not be compacted: it goes on as it is", "error", err, "again_in", compactPause)
	} else {
		size, _ := c.file.sizes()
		c.log.Info("the store was compacted", "bytes_before", before, "bytes", size)
	}
	c.used = c.measure(c.file)
	c.mu.Lock()
	c.stats.Compactions++
	c.mu.Unlock()
}

// compact replaces the file by one without free pages. Nobody may update it meanwhile. Whatever error
// it returns, nothing is lost, and update knows what is left to do.
func (f *file) compact() error {
	if err := f.unsound(); err != nil {
		return err
	}
	// bbolt may take a destroyed page for another one. The copy would be sound, and what it lacks lost.
	if err := verify(f.path); errors.Is(err, ErrDamaged) {
		return f.doubted(fmt.Errorf("%w: %w", errUnsound, err))
	} else if err != nil {
		return err
	}
	fresh := f.path + compactSuffix
	txid, err := writeCompact(f, fresh)
	//crash:compact-written
	if err == nil {
		err = verify(fresh)
	}
	if err == nil {
		err = os.Rename(fresh, f.path)
	}
	if err != nil {
		return errors.Join(err, removeIf(fresh))
	}
	// From here on the new file is the store. Until the folder is on disk a power cut may bring back
	// the old one, which has the same in it, but must not get what is committed to the new one.
	//crash:compact-renamed
	f.unsynced, f.txid = true, txid
	old := f.db.Load()
	if err = f.open(); err != nil {
		f.broken = true // the next update opens it; until then the old one can be read
	} else {
		f.closing.Go(func() { _ = old.Close() }) // which waits for those who read it
	}
	//crash:compact-opened
	return errors.Join(err, f.syncFolder())
}

// syncFolder makes durable under which name the file is.
func (f *file) syncFolder() error {
	if !f.unsynced {
		return nil
	}
	if err := syncFolder(filepath.Dir(f.path)); err != nil {
		return err
	}
	f.unsynced = false
	return nil
}

// compactSuffix is what a file is called while it is written that is to replace another.
const compactSuffix = ".compact"

// writeCompact writes what a store holds into a new file, which is on disk when it returns nil, and
// returns the number of its last transaction.
func writeCompact(from *file, path string) (txid int, err error) {
	if err := removeIf(path); err != nil {
		return 0, err
	}
	to, err := openFile(path, from.maxSize)
	if err != nil {
		return 0, err
	}
	ownLike(to.handle, from.path)
	err = guard(func() error { return bolt.Compact(to.db.Load(), from.db.Load(), batchBytes) })
	if err == nil {
		err = to.view(func(tx *bolt.Tx) error {
			txid = tx.ID()
			return nil
		})
	}
	return txid, errors.Join(err, to.close())
}

// removeIf removes a file if it is there.
func removeIf(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	//crash:before-folder-sync
	return errors.Join(folder.Sync(), folder.Close())
}

// Compact makes a file as small as what is in it, and returns its size before and after. No gateway
// may have it (ErrInUse); a running one does it by itself.
func Compact(path string) (before, after int64, err error) {
	if _, err := os.Stat(path); err != nil { // before a lock is made
		return 0, 0, fmt.Errorf("compact: %w", err)
	}
	err = exclusive(path, func(path string) error {
		if err := verify(path); err != nil {
			return err
		}
		f, err := openFile(path, maxFile)
		if err != nil {
			return err
		}
		before, _ = f.sizes()
		if err = sweepAll(f); err == nil {
			err = f.compact()
		}
		after, _ = f.sizes()
		return errors.Join(err, f.close())
	})
	if err != nil {
		return 0, 0, fmt.Errorf("compact %s: %w", path, err)
	}
	return before, after, nil
}

// sweepAll deletes all messages that are done with.
func sweepAll(f *file) error {
	o := Options{MaxBytes: maxFile, sweepAt: 1}
	o.defaults()
	s := assemble(f, o)
	if err := s.load(); err != nil {
		return err
	}
	for s.committer.deadN > 0 {
		if s.committer.commit(nil); s.committer.disk != nil {
			return s.committer.disk
		}
	}
	return nil
}

// maxFile bounds a file whose quota nobody knows.
const maxFile = 2 << 30

// exclusive calls fn with the file that a path names, while no gateway, and no other such call, has the store.
func exclusive(path string, fn func(path string) error) error {
	path, err := realPath(path)
	if err != nil {
		return err
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		if errors.Is(err, ErrInUse) {
			err = fmt.Errorf("%w: stop the gateway first", err)
		}
		return err
	}
	return errors.Join(fn(path), lock.Close())
}
