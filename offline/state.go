package offline

import (
	"errors"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// A State is a word for how a store is.
type State string

// The states. In all but Ready new messages for durable sessions are refused.
const (
	Ready    State = "ready"
	Full     State = "full"      // the quota or the disk has no room
	ReadOnly State = "read_only" // the file system takes nothing
	Broken   State = "broken"    // the disk fails
	Damaged  State = "damaged"   // the file contradicts itself while it is open
	InUse    State = "in_use"    // another process has it
	Later    State = "later"     // a later version of the gateway wrote it
)

// StateOf returns the state that an error of the store stands for, and what to do.
func StateOf(err error) (s State, remedy string) {
	switch {
	case err == nil:
		return Ready, ""
	case errors.Is(err, ErrFull):
		return Full, "raise store.max_size, make room on the disk, or let the clients connect that messages wait for"
	case errors.Is(err, ErrInUse):
		return InUse, "stop the other process, or give this gateway a store.path of its own"
	case errors.Is(err, ErrVersion):
		return Later, "install the gateway that wrote it, or move the file away to begin with an empty store"
	case errors.Is(err, syscall.EROFS):
		return ReadOnly, "find out in the kernel's log why the file system is read-only, and mount it for writing"
	case errors.Is(err, ErrDamaged):
		return Damaged, "none: the gateway starts anew by itself, which sets the file aside and saves what can be read; look for errors of the disk in the kernel's log"
	}
	return Broken, "look for errors of the disk in the kernel's log, and at the folder of the store"
}

// probeTime is how often a store that is not Ready, and is asked for nothing, looks whether it could
// be again.
const probeTime = 2 * time.Second

// probe finds out whether the store could take messages again.
func (c *committer) probe() {
	switch {
	case !c.debt.none():
		c.debt.commit(c, nil)
	case c.disk != nil:
		c.disk = reason(c.file.update(func(*bolt.Tx) error { return nil }))
	case c.used <= c.maxBytes-c.maxBytes/16 && hasRoom(c.file.path):
		c.room = nil
	}
	c.health(c.why())
}

// A trouble is what keeps a store from taking messages, as far as is known.
type trouble struct {
	disk error // why the last commit failed, nil: it did not
	room error // why messages were refused; nil: none were since there was room
}

// why returns why the store takes no messages, nil if it does.
func (t *trouble) why() error {
	if t.disk != nil {
		return t.disk
	}
	return t.room
}

// hasRoom reports whether the file system of a file has room for it to grow.
func hasRoom(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && uint64(s.Bavail)*uint64(s.Bsize) >= 4*allocSize
}
