package offline

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"gateway/broker/session"
)

// lockFile takes the lock of a store. It is on a file of its own, because the store's may be
// replaced by another.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	ownLike(f, filepath.Dir(path))
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// realPath returns the file that a path names: that of a link, since a new file is to take its place where it is and
// not that of the link. A file of this name need not be there.
func realPath(path string) (string, error) {
	if info, err := os.Lstat(path); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return path, nil
	}
	return filepath.EvalSymlinks(path)
}

// ownLike gives a file that root has made to the owner of another: root types the commands, but the
// gateway that has to open the file is somebody else. Some containers and file systems have no other
// owners: there the file is as good as it is.
func ownLike(f *os.File, path string) {
	var s unix.Stat_t
	if os.Geteuid() == 0 && unix.Stat(path, &s) == nil {
		_ = f.Chown(int(s.Uid), int(s.Gid))
	}
}

// Salvaged tells what was saved from a damaged file.
type Salvaged struct {
	Cause    error  // what is wrong with it
	Aside    string // where it is now
	Sessions int64
	Messages int64 // each queue counted
	Retained int64
	Lost     int64 // messages that are not among these and should be, at most, each queue counted
	Problems int64 // pages and records that could not be read or kept
}

// prepare sees to it that there is a sound file at path. Every step leaves the folder so that the
// next start can go on:
//
//   - a new file is made as path.new, and is path.new until all of it is on disk;
//   - while a damaged file is at path, path.new is unfinished and is made again;
//   - when nothing is at path, path.new is finished if it is sound.
func prepare(path string, o Options) (*Salvaged, error) {
	fresh, hard := path+".new", o.hard()
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if o.Sound {
			return nil, err
		}
		switch err := verify(fresh); {
		case err == nil:
		case errors.Is(err, ErrDamaged), errors.Is(err, fs.ErrNotExist):
			if err := create(fresh, hard); err != nil {
				return nil, err
			}
		default: // it may be all that was saved
			return nil, err
		}
		//crash:file-finished
		return nil, rename(fresh, path)
	}
	cause := verify(path)
	if cause == nil && o.Suspect != nil {
		cause = fmt.Errorf("%w, though all of it can be read: %w", ErrDamaged, o.Suspect)
	}
	if cause == nil {
		// Nobody may take for the store, if that is moved away, what was left unfinished beside it.
		// A gateway that was killed may have left the folder with a rename that is not on disk. The
		// next power cut would bring the file of before back, and take away what is committed from now on.
		return nil, errors.Join(removeIf(fresh), removeIf(path+compactSuffix), syncFolder(filepath.Dir(path)))
	}
	if o.Sound || errors.Is(cause, ErrVersion) || !errors.Is(cause, ErrDamaged) {
		return nil, cause
	}
	if err := create(fresh, hard); err != nil {
		return nil, err
	}
	//crash:before-salvage
	saved, err := &Salvaged{Problems: 1}, error(nil)
	if o.Discard {
		cause = fmt.Errorf("%w; nothing of it is saved, as what was saved before was damaged again", cause)
	} else {
		saved, err = salvage(path, fresh, o)
	}
	if errors.Is(err, ErrDamaged) { // an empty store is better than none
		cause = errors.Join(cause, fmt.Errorf("nothing of it is saved: %w", err))
		saved, err = &Salvaged{Problems: 1}, create(fresh, hard)
	}
	if err != nil { // half a copy takes room that others need, and the next attempt too
		return nil, errors.Join(fmt.Errorf("save what is left of a damaged store: %w", err), removeIf(fresh))
	}
	//crash:salvaged
	saved.Cause, saved.Aside = cause, asideName(path)
	if err := rename(path, saved.Aside); err != nil {
		return nil, err
	}
	//crash:set-aside
	o.Log.Error("the store was damaged: it is set aside, and what could be read of it goes on",
		"path", path, "aside", saved.Aside, "cause", cause, "sessions", saved.Sessions,
		"messages", saved.Messages, "retained", saved.Retained, "lost", saved.Lost, "problems", saved.Problems)
	return saved, rename(fresh, path)
}

// asideName returns a name for a damaged file.
func asideName(path string) string {
	return freeName(path + ".corrupt-" + time.Now().UTC().Format("20060102T150405Z"))
}

// freeName returns a name that no file has: the one given, or with a number. A board without a clock
// chip starts at the same time again and again.
func freeName(name string) string {
	free := name
	for n := 2; ; n++ {
		if _, err := os.Lstat(free); err != nil {
			return free
		}
		free = fmt.Sprintf("%s-%d", name, n)
	}
}

// rename renames a file durably.
func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	//crash:renamed
	return syncFolder(filepath.Dir(to))
}

// create makes an empty store, anew if there is one. It is complete when it has a format, which
// comes with its only commit.
func create(path string, hard int64) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := openFile(path, hard)
	if err != nil {
		return err
	}
	//crash:file-made
	err = f.update(func(tx *bolt.Tx) error {
		for _, name := range bucketNames {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketNames[bucketMeta]).Put(keyFormat, numberRecord(formatVersion))
	})
	//crash:buckets-made
	return errors.Join(err, f.close())
}

// verify reads all pages of a file as bbolt will, but does not panic. ErrDamaged says that the file is not
// sound; another error, that nobody knows.
func verify(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return verifyImage(f)
}

func verifyImage(f readable) error {
	var first error
	bad := func(err error) {
		if first == nil {
			first = err
		}
	}
	src, err := openImage(f, bad)
	if err != nil {
		return err
	}
	for i := range bucketNames {
		err = errors.Join(err, src.each(i, func(_, _ []byte) error { return nil }))
	}
	if failed := src.im.r.failed; failed != nil {
		return failed
	}
	return errors.Join(first, err)
}

// Readable is what is used of a file that is only read.
type readable interface {
	io.ReaderAt
	Stat() (fs.FileInfo, error)
}

// openImage opens a file of this format as a source.
func openImage(f readable, bad func(error)) (*imageSource, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a file")
	}
	im, err := newImage(f, info.Size())
	if err != nil {
		return nil, err
	}
	src := newImageSource(im, bad)
	format, err := parseNumber(src.get(bucketMeta, keyFormat))
	switch {
	case im.r.failed != nil:
		return nil, im.r.failed
	case err != nil:
		bad(fmt.Errorf("format: %w", err))
	case format > formatVersion:
		return nil, fmt.Errorf("%w: format %d, not %d: use the gateway that wrote it, or move the file away",
			ErrVersion, format, formatVersion)
	}
	return src, nil
}

// salvage copies what can be read of a damaged file into a new one.
func salvage(from, to string, o Options) (*Salvaged, error) {
	damaged, err := os.Open(from)
	if err != nil {
		return nil, err
	}
	defer damaged.Close()
	return salvageImage(damaged, to, o)
}

func salvageImage(damaged readable, to string, o Options) (*Salvaged, error) {
	saved := new(Salvaged)
	bad := func(error) { saved.Problems++ }
	src, err := openWreck(damaged, bad)
	if err != nil {
		return nil, err
	}
	// Messages that were shared are stored once for each queue: more than the quota, perhaps. Only the disk
	// bounds what is saved; new ones are refused until there is room.
	most := max(o.hard(), maxFile)
	f, err := openFile(to, most)
	if err != nil {
		return nil, err
	}
	f.commit = o.commit
	within := Options{MaxBytes: most, Clock: o.Clock}
	within.defaults()
	r := &rescue{store: assemble(f, within), saved: saved, strange: make(map[uint64]uint64)}
	if err = f.update(func(tx *bolt.Tx) error { return salvageStarts(tx, damaged, src) }); err == nil {
		err = r.store.load()
	}
	if err == nil {
		clock := r.store.clock
		err = src.facts(clock.restore, clock.stamp(time.Now(), 0), bad, func(client string, messages int64) {
			saved.Lost += messages
			o.Log.Error("messages of a session are lost with a part of the store", "client", client, "messages", messages)
		}, r.add)
		r.flush()
	}
	if err == nil {
		err = r.failed
	}
	if err == nil && len(r.strange) > 0 {
		err = f.update(func(tx *bolt.Tx) error { return putStrange(tx, r.strange) })
	}
	if failed := src.im.r.failed; err == nil && failed != nil { // what was left out may be there the next time
		err = failed
	}
	return saved, errors.Join(err, f.close())
}

// salvageStarts gives a new file what a damaged one knew of the starts of the machine and of the time.
// What cannot be read is made up from the records: no later start gets a number that one of them has,
// and the time is not before that of any of them.
func salvageStarts(tx *bolt.Tx, damaged readable, src source) error {
	boot, starts := src.get(bucketMeta, keyBoot), src.get(bucketMeta, keyStarts)
	number, id := parseBoot(boot)
	_, errStarts := unseal(starts)
	if number == 0 || errStarts != nil {
		highest, newest, err := newestStamp(damaged)
		if err != nil {
			return err
		}
		if number == 0 {
			boot = bootRecord(highest, id)
		}
		if errStarts != nil {
			starts = startsRecord(newest, nil)
		}
	}
	meta := tx.Bucket(bucketNames[bucketMeta])
	return errors.Join(meta.Put(keyBoot, boot), meta.Put(keyStarts, starts))
}

// newestStamp returns the highest number of a start, and the newest time of day, that any record has
// which can be read.
func newestStamp(damaged readable) (boot uint64, newest time.Time, err error) {
	ignore := func(error) {}
	src, err := openWreck(damaged, ignore)
	if err != nil {
		return 0, time.Time{}, err
	}
	look := func(s stamp) moment {
		boot = max(boot, s.boot)
		if s.wall >= unset && s.time().After(newest) {
			newest = s.time()
		}
		return moment{}
	}
	err = src.facts(look, stamp{}, ignore, func(string, int64) {}, func(session.Change) error { return nil })
	if failed := src.im.r.failed; failed != nil {
		err = failed
	}
	return boot, newest, err
}

// A rescue replays facts into a new store, without its goroutines.
type rescue struct {
	store   *Store
	saved   *Salvaged
	strange map[uint64]uint64 // see session.Summary
	units   []*unit
	size    int64

	failed error // of the disk: what it did not take can be saved later
}

func (r *rescue) add(change session.Change) error {
	register := &r.store.intake.register
	changes := []session.Change{change}
	var extra []op
	switch change := change.(type) {
	case *session.Opened:
		r.saved.Sessions++
	case *session.Retained:
		r.saved.Retained++
	case *session.Enqueued:
		to := change.To[0]
		to.Incarnation = register.number(to.Client)
		register.sessions[to.Client].next = to.Position
		r.saved.Messages++
	case *session.Summary:
		changes = nil
		if change.Strange > 0 {
			r.strange[register.number(change.Client)] = change.Strange
		}
		for _, id := range change.Received {
			changes = append(changes, &session.Received{Client: change.Client, ID: id})
		}
		extra = append(extra, &skipOp{client: change.Client, next: change.Next})
	}
	u := &unit{}
	u.ops, u.grows, u.err = r.store.clock.encode(changes)
	u.ops = append(u.ops, extra...)
	for _, o := range u.ops { // none of them is early
		o.place(register)
	}
	r.units = append(r.units, u)
	r.size += u.grows
	if r.failed != nil {
		return r.failed
	}
	if len(r.units) >= batchUnits || r.size >= batchBytes {
		r.flush()
	}
	return nil
}

func (r *rescue) flush() {
	r.store.committer.commit(r.units)
	for _, u := range r.units {
		switch {
		case u.err == nil:
		case errors.Is(u.err, ErrDisk), errors.Is(u.err, syscall.ENOSPC), errors.Is(u.err, syscall.EDQUOT):
			r.failed = u.err
		default:
			r.saved.Problems++
		}
	}
	r.units, r.size = nil, 0
}

// bootRecord is the number of the machine's last known start, and the kernel's name for it.
func bootRecord(number uint64, id string) []byte {
	return seal(appendText(binary.AppendUvarint(unsealed(48), number), id))
}

func parseBoot(rec []byte) (number uint64, id string) {
	b, err := unseal(rec)
	if err != nil {
		return 0, ""
	}
	p := parser{b: b}
	number, id = p.uvarint(), p.text()
	return number, id
}
