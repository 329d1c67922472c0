package hostile

import (
	"sync"
	"syscall"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/session"
	"gateway/offline"
)

// A slowDisk is a store whose disk takes flushTime for each commit. Its one thread waits in a system
// call, as that of a commit does.
type slowDisk struct {
	*offline.Store
	done    chan func() // has room for more than the clients of a test can wait for
	waiting sync.WaitGroup
}

const flushTime = 10 * time.Millisecond

func newSlowDisk(s *offline.Store) *slowDisk {
	d := &slowDisk{Store: s, done: make(chan func(), 1000)}
	d.waiting.Go(func() {
		for done := range d.done {
			pause := syscall.NsecToTimespec(int64(flushTime))
			_ = syscall.Nanosleep(&pause, nil)
			done()
		}
	})
	return d
}

func (d *slowDisk) Submit(changes []session.Change, lazy bool, done func(error)) {
	d.Store.Submit(changes, lazy, func(err error) {
		if done != nil {
			d.done <- func() { done(err) }
		}
	})
}

// A disk that is always busy keeps nobody waiting whose messages do not need it: while one durable
// message is on its way, several others come. TestNeighbours measures how long they take.
func TestBusyDisk(t *testing.T) {
	var disk *slowDisk
	s := startOn(t, small, "", func(s *offline.Store) broker.Store { disk = newSlowDisk(s); return disk })
	s.period = time.Millisecond
	durable, quick := s.couple(1, 60), s.couple(0, 0)
	took := during([]*couple{durable, quick}, func() {
		eventually(t, "50 durable messages have come", func() bool {
			durable.mu.Lock()
			defer durable.mu.Unlock()
			return len(durable.took) >= 50
		})
	})
	t.Logf("%d messages that need no disk came beside %d durable ones", len(took[1]), len(took[0]))
	if len(took[1]) < 2*len(took[0]) {
		t.Errorf("%d messages that need no disk came beside %d durable ones, want twice as many at least", len(took[1]), len(took[0]))
	}
	durable.leave()
	quick.leave()
	s.stop()
	close(disk.done)
	disk.waiting.Wait()
}
