package offline

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

const (
	pageSize  = 4096    // also where the kernel has larger ones: they triple what a small commit writes
	allocSize = 1 << 20 // the file grows by this

	// mapSize is how much of the file is mapped from the beginning, at most: 512 MiB where addresses have
	// 32 bits, else 2 GiB.
	mapSize = 512 << 20 << (2 * (strconv.IntSize / 64))
)

// A file is the bbolt file of an open store. Any goroutine may view it; only one updates it.
type file struct {
	path    string
	maxSize int64
	db      atomic.Pointer[bolt.DB]
	handle  *os.File // bbolt's own, for the one who updates

	commit func(*bolt.DB, func(*bolt.Tx) error) error // func commit, but for tests of failing disks
	txid   int                                        // of the last commit that was reported as done
	broken bool                                       // the file must be opened anew before the next commit
	// unsynced tells that the folder must be flushed before the next commit: the file has replaced
	// another.
	unsynced bool
	closing  sync.WaitGroup // files that this one has replaced

	doubt atomic.Pointer[error] // why the file must not be written any more, until a start has looked at it
}

func openFile(path string, maxSize int64) (*file, error) {
	f := &file{path: path, maxSize: maxSize, commit: commit}
	if err := f.open(); err != nil {
		return nil, err
	}
	err := f.view(func(tx *bolt.Tx) error {
		f.txid = tx.ID()
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// open opens the file with bbolt. The caller has made sure that the file is sound: on one that is
// not bbolt can panic.
func (f *file) open() (err error) {
	var handle *os.File
	defer func() {
		if err != nil && handle != nil {
			handle.Close() // a bbolt that panicked would keep it, and its lock, for ever
		}
	}()
	return guard(func() error {
		db, err := bolt.Open(f.path, 0o600, &bolt.Options{
			Timeout:        time.Second,
			PageSize:       pageSize,
			NoFreelistSync: true,
			FreelistType:   bolt.FreelistMapType,
			MaxSize:        int(min(f.maxSize, math.MaxInt32)),
			// A map that has to become larger waits for all who read, and everybody for it: a backup would
			// hold up every commit. To map what is not there yet costs nothing but addresses.
			InitialMmapSize: int(min(f.maxSize, mapSize)),
			OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
				h, err := os.OpenFile(name, flag, mode)
				handle = h
				return h, err
			},
		})
		if errors.Is(err, berrors.ErrTimeout) {
			return fmt.Errorf("%s: %w", f.path, ErrInUse)
		}
		if err != nil {
			return err
		}
		db.AllocSize = allocSize
		f.handle = handle
		f.db.Store(db)
		return nil
	})
}

func (f *file) close() error {
	err := f.db.Load().Close()
	f.closing.Wait()
	return err
}

// view runs fn in a reading transaction.
func (f *file) view(fn func(*bolt.Tx) error) error {
	return f.doubted(guard(func() error {
		for {
			db := f.db.Load()
			err := db.View(fn)
			if !errors.Is(err, berrors.ErrDatabaseNotOpen) || db == f.db.Load() {
				return err
			} // else another has taken its place
		}
	}))
}

// doubted notes an error that makes the file unsound, and returns it.
func (f *file) doubted(err error) error {
	if errors.Is(err, errUnsound) {
		f.doubt.CompareAndSwap(nil, &err)
	}
	return err
}

// unsound returns why the file must not be written, nil if it may.
func (f *file) unsound() error {
	if err := f.doubt.Load(); err != nil {
		return *err
	}
	return nil
}

// update runs fn in a writing transaction, which is on disk when update returns nil. When it
// returns an error the file shows nothing of it. A file that is unsound is left as it is: to write
// it, or only to open it anew, could make it worse.
func (f *file) update(fn func(*bolt.Tx) error) error {
	if err := f.unsound(); err != nil {
		return err
	}
	if f.broken {
		if err := f.reopen(); err != nil {
			return err
		}
	}
	if err := f.syncFolder(); err != nil {
		return err
	}
	id := 0
	err := guard(func() error {
		return f.commit(f.db.Load(), func(tx *bolt.Tx) error {
			id = tx.ID()
			return fn(tx)
		})
	})
	if err = numbered(err); err == nil {
		f.txid = id
		return nil
	}
	if errors.Is(f.doubted(err), errUnsound) {
		return err
	}
	// When only the last flush failed, the commit can be seen although it may not be on disk.
	shown := 0
	if failed := f.view(func(tx *bolt.Tx) error { shown = tx.ID(); return nil }); failed != nil || shown != f.txid {
		f.broken = true
		err = errors.Join(err, f.reopen())
	}
	return err
}

// commit is (*bolt.DB).Update, except that a panic does not make bbolt read the whole file again,
// on a goroutine of its own where nothing could catch the next one.
func commit(db *bolt.DB, fn func(*bolt.Tx) error) error {
	tx, err := db.Begin(true)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit, or one that failed, it does nothing
	if err := fn(tx); err != nil {
		return err
	}
	//crash:transaction-ready
	return tx.Commit()
}

// reopen opens the file anew, as it was after the last commit that was reported as done.
func (f *file) reopen() error {
	if err := f.db.Load().Close(); err != nil && !errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return err
	}
	if err := revert(f.path, uint64(f.txid)); err != nil {
		return fmt.Errorf("take back an unfinished commit: %w", err)
	}
	if err := f.open(); err != nil {
		return err
	}
	f.broken = false
	return nil
}

// errUnsound is the ErrDamaged of a file that only a start can mend.
var errUnsound = fmt.Errorf("%w: its pages contradict themselves", ErrDamaged)

// guard turns a panic of bbolt, or a fault in the mapped file, into errUnsound.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errUnsound, r)
		}
	}()
	return fn()
}

// sizes returns the size of the file in bytes, and how many of them are free for new records.
func (f *file) sizes() (size, free int64) {
	stats := f.db.Load().Stats()
	free = int64(stats.FreePageN+stats.PendingPageN) * pageSize
	_ = f.view(func(tx *bolt.Tx) error {
		size = tx.Size()
		return nil
	})
	return size, free
}
