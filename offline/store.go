// Package offline is the durable store of the gateway: sessions, their subscriptions and queues,
// and retained messages, in one bbolt file.
//
// One goroutine commits whatever waits, as one transaction with two flushes, and a second one
// tells those who wait. An acknowledgement moves a cursor and deletes nothing; what is behind
// the cursors is swept in bulk. docs/store-format.md describes the file.
package offline

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"

	"gateway/broker/session"
)

// Options are the settings of a store. The zero value is ready for use.
type Options struct {
	Log *slog.Logger // nil: nothing is logged
	// TelemetryCommit is how long lazy changes may wait for a commit. 0: one second.
	TelemetryCommit time.Duration
	// CommitDelay is how long changes that are not lazy wait for a commit, so that messages which are
	// Done by then are never written. 0: not at all.
	CommitDelay time.Duration
	// MaxPending is how many bytes may wait for the committer before Submit waits. 0: 8 MiB.
	MaxPending int64
	// MaxBytes is the quota of the file: above it new messages are refused with ErrFull. The file
	// itself stays below MaxBytes + MaxBytes/4 + 16 MiB, at most 2 GiB; one that is larger, as what was
	// saved of a damaged one may be, grows by 16 MiB at most. 0: 256 MiB.
	MaxBytes int64

	// Clock is the time of day. nil: that of the machine, once it is not that of one whose clock was
	// never set.
	Clock Clock

	// Suspect is why the file is not to be trusted, however sound it looks: it is set aside like a
	// damaged one. nil: it is trusted when all of it can be read.
	Suspect error
	// Discard says that nothing of a damaged or suspect file is to be saved: what was saved of it before
	// was of no use either.
	Discard bool
	// Sound says that the file must be there, and sound. Else Open fails with fs.ErrNotExist or ErrDamaged, and
	// changes nothing.
	Sound bool

	// Way is what the store gives to others; nil: one of its own.
	Way *Way

	sweepAt int64         // dead messages that are worth a sweep
	compact int64         // size of a file that is worth a compaction
	holes   int64         // bytes within a file that are worth to be given back
	probe   time.Duration // between looks whether a store that was not could be ready again
	commit  func(*bolt.DB, func(*bolt.Tx) error) error
}

func (o *Options) defaults() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.TelemetryCommit <= 0 {
		o.TelemetryCommit = time.Second
	}
	if o.MaxPending <= 0 {
		o.MaxPending = 8 << 20
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 256 << 20
	}
	if o.Clock == nil {
		o.Clock = kernelClock{}
	}
	if o.sweepAt == 0 {
		o.sweepAt = sweepAt
	}
	if o.compact == 0 {
		o.compact = compactAt
	}
	if o.holes == 0 {
		o.holes = holesAt
	}
	if o.probe == 0 {
		o.probe = probeTime
	}
	if o.commit == nil {
		o.commit = commit
	}
}

// Stats are the figures of a store since it was opened.
type Stats struct {
	Commits     int64 // transactions
	Messages    int64 // put into queues, each queue counted
	Bytes       int64 // of messages and retained messages committed, without what the file adds
	LastBatch   int   // units of the last commit
	Pending     int64 // bytes that wait for a commit
	Refused     int64 // units that failed
	Damaged     int64 // records that could not be read and were left out
	Dead        int64 // messages that are done with and not yet swept, about
	FileBytes   int64 // size of the file, as far as it is in use
	FreeBytes   int64 // of these, free for new records
	DiskBytes   int64 // room that the file takes on the disk: free bytes may take none
	LastError   error // why the store does not take messages, nil when it does
	Compactions int64 // attempts to make the file smaller
	Salvaged    *Salvaged
}

// A Store is the durable state of a gateway in one file. Its methods may be called concurrently.
type Store struct {
	lock      *os.File
	log       *slog.Logger
	clock     *clock
	file      *file
	intake    *intake
	committer *committer
	*Way
}

// Open opens a store, and creates it if there is none. The folder must exist. If path is a link, the
// store is what it names, and its other files are beside that.
//
// A damaged file is renamed to path.corrupt-<time>, and what can be read of it is saved into a
// new one; Stats tells how much. If nothing can, the new one is empty. Open fails with ErrInUse when
// another process has the store, with ErrVersion when a later gateway wrote it, and when the disk
// does not take what is to be written.
func Open(path string, o Options) (_ *Store, err error) {
	o.defaults()
	if path, err = realPath(path); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if o.Sound {
		if err := verify(path); err != nil { // before anything is made
			return nil, fmt.Errorf("open store %s: %w", path, err)
		}
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("open store %s: %w", path, errors.Join(err, lock.Close()))
		}
	}()
	s, err := openSound(path, o)
	for errors.Is(err, ErrDamaged) && !o.Discard && !o.Sound { // it looked sound, or what was saved of it did
		o.Suspect, o.Discard = err, o.Suspect != nil
		s, err = openSound(path, o)
	}
	if err != nil {
		return nil, err
	}
	s.lock, s.file.commit = lock, o.commit
	s.committer.start()
	return s, nil
}

// openSound sees to it that there is a sound file, and loads it.
func openSound(path string, o Options) (*Store, error) {
	salvaged, err := prepare(path, o)
	if err != nil {
		return nil, err
	}
	most := o.hard()
	if info, err := os.Stat(path); err == nil { // it may be larger: saved, or from a time with more room
		most = max(most, info.Size()+hardRoom)
	}
	f, err := openFile(path, most)
	if err != nil {
		return nil, err
	}
	s := assemble(f, o)
	s.committer.stats.Salvaged = salvaged
	if err := s.load(); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return s, nil
}

// hard is the size beyond which the file does not grow, but for acknowledgements of what it has.
func (o *Options) hard() int64 { return o.MaxBytes + o.MaxBytes/4 + hardRoom }

// hardRoom is what a full store needs to become less full.
const hardRoom = 16 << 20

// assemble puts the parts of a store together, for an open file.
func assemble(f *file, o Options) *Store {
	if o.Way == nil {
		o.Way = new(Way)
	}
	s := &Store{log: o.Log, clock: newClock(o.Clock), file: f, Way: o.Way, intake: newIntake(o.TelemetryCommit, o.CommitDelay, o.MaxPending)}
	s.committer = &committer{
		way:  o.Way,
		file: f, intake: s.intake, clock: s.clock, maxBytes: o.MaxBytes, sweepAt: o.sweepAt, probeAfter: o.probe, compactAt: o.compact, puncher: puncher{worth: o.holes},
		cursors: make(map[uint64]*cursor), dead: make(map[uint64]struct{}),
		debt:  debt{behind: make(map[uint64]struct{})},
		gauge: gauge{log: o.Log},
	}
	return s
}

// load reads what the committer keeps in memory, and counts this start of the machine.
func (s *Store) load() error {
	if err := s.file.update(s.clock.remember); err != nil {
		return err
	}
	var lost []uint64 // sessions whose cursor is not there
	err := s.file.view(func(tx *bolt.Tx) error {
		r := &s.intake.register
		if last, _ := tx.Bucket(bucketNames[bucketRefs]).Cursor().Last(); len(last) == 8 {
			r.lastBody = keyNumber(last)
		}
		r.lastBody = max(r.lastBody, tx.Bucket(bucketNames[bucketBodies]).Sequence())
		r.lastSession = tx.Bucket(bucketNames[bucketSessions]).Sequence()
		if err := s.loadCursors(tx); err != nil {
			return err
		}
		return tx.Bucket(bucketNames[bucketSessions]).ForEach(func(_, rec []byte) error {
			rd, err := parseSession(rec)
			if err != nil {
				s.damaged("a session", err)
				return nil
			}
			r.lastSession = max(r.lastSession, rd.number)
			r.sessions[rd.client] = &entry{number: rd.number, next: 1}
			if c := s.committer.cursors[rd.number]; c != nil {
				r.sessions[rd.client].next = c.next
			} else {
				lost = append(lost, rd.number)
			}
			return nil
		})
	})
	if err != nil || lost == nil {
		return err
	}
	return s.mend(lost)
}

// mend gives sessions whose cursor could not be read another one, at the beginning of what is in
// the queue: what was acknowledged but is still there will be delivered again. Identifiers that were
// given out behind it are given out once more.
func (s *Store) mend(lost []uint64) error {
	mended := make(map[uint64]*cursor)
	err := s.file.update(func(tx *bolt.Tx) error {
		queue := tx.Bucket(bucketNames[bucketQueue]).Cursor()
		strange := parseStrange(tx.Bucket(bucketNames[bucketMeta]).Get(keyStrange))
		for _, number := range lost {
			c := newCursor()
			for key, rec := queue.Seek(queueKey(number, 0)); ; key, rec = queue.Next() {
				position, ok := queuePosition(key, number)
				if !ok {
					break
				}
				rule, size := weight(rec)
				c.add(position, rule, size)
				c.expiring = true // as far as is known
			}
			if err := tx.Bucket(bucketNames[bucketCursors]).Put(numberKey(number), c.record()); err != nil {
				return err
			}
			mended[number] = c
			strange[number] = strangeAfter(c.next)
		}
		return putStrange(tx, strange)
	})
	if err != nil {
		return err
	}
	s.committer.adopt(mended)
	for _, e := range s.intake.register.sessions {
		if c := mended[e.number]; c != nil {
			e.next = c.next
		}
	}
	return nil
}

// loadCursors reads the cursors. What is dead behind a head is estimated by the distance.
func (s *Store) loadCursors(tx *bolt.Tx) error {
	queue := tx.Bucket(bucketNames[bucketQueue]).Cursor()
	loaded := make(map[uint64]*cursor)
	err := tx.Bucket(bucketNames[bucketCursors]).ForEach(func(key, rec []byte) error {
		c, err := parseCursor(rec)
		if err != nil || len(key) != 8 {
			s.damaged("a cursor", err)
			return nil
		}
		number := keyNumber(key)
		first, _ := queue.Seek(queueKey(number, 0))
		if position, ok := queuePosition(first, number); ok && position < c.head {
			c.dead = int64(c.head - position)
		} else if c.removed {
			c.dead = 1 // the cursor itself
		}
		loaded[number] = c
		s.intake.register.lastSession = max(s.intake.register.lastSession, number)
		return nil
	})
	s.committer.adopt(loaded)
	s.committer.used = s.committer.measure(s.file)
	return err
}

// Submit hands over changes that become durable together or not at all, in the order of
// submission, and sets the Position of every target and the Incarnation of every Opened before
// it returns. The changes are not kept.
//
// done is called once, on another goroutine, in the order of submission: with nil when the
// changes are on disk, else with the reason why they never will be (ErrFull, ErrDisk, ErrDamaged,
// ErrClosed). It may call Submit but must not wait for anything else. It may be nil: then changes without
// messages are tried again, before all that come later, until the disk takes them.
//
// Lazy changes may wait for Options.TelemetryCommit, unless others come after them. Submitting no
// changes is a barrier.
//
// Submit waits while more than Options.MaxPending bytes are pending, and not for the disk.
func (s *Store) Submit(changes []session.Change, lazy bool, done func(error)) {
	const perOp = 128 // bytes of memory
	u := &unit{done: done}
	u.ops, u.grows, u.err = s.clock.encode(changes)
	u.size = u.grows + int64(len(u.ops))*perOp + perOp
	if !s.intake.put(u, lazy) && done != nil {
		go done(ErrClosed) // nothing is left that would call it, and nothing to wait for
	}
}

// Stats returns the present figures.
func (s *Store) Stats() Stats {
	s.committer.mu.Lock()
	stats := s.committer.stats
	s.committer.mu.Unlock()
	if err := s.file.unsound(); err != nil {
		stats.LastError = err
	}
	stats.Pending, _ = s.intake.state()
	return stats
}

// Close commits all that is pending, lazy changes included, waits until every done has been
// called, and closes the file. It returns an error if not everything could be committed. It must
// not be called by a done.
func (s *Store) Close() error {
	if !s.intake.close() {
		return ErrClosed
	}
	s.committer.workers.Wait()
	err := s.Stats().LastError
	if errors.Is(err, ErrFull) && s.committer.debt.none() {
		err = nil // what was refused was reported; nothing else is missing
	}
	if err == nil { // without the note, the next start knows a little less of the time
		_ = s.file.update(func(tx *bolt.Tx) error { return s.clock.note(tx, true) })
	}
	return errors.Join(err, s.file.close(), s.lock.Close())
}

// damaged counts and logs a record that cannot be read.
func (s *Store) damaged(what string, err error) {
	s.committer.mu.Lock()
	s.committer.stats.Damaged++
	s.committer.mu.Unlock()
	s.log.Error("the store has a record that cannot be read and is left out; 'gateway store check' tells more",
		"record", what, "error", err)
}
