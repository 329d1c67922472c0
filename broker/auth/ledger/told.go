package ledger

import (
	"context"
	"os"
	"sync"
	"syscall"
	"time"
)

// toldEvery is how often the file is looked at although the kernel would tell of a change.
const toldEvery = time.Minute

// told has the kernel tell when a file in a folder has been put into place, written or removed. What
// is written to a file that stays open, as the store's, wakes nobody. The channel has room for one:
// who has not taken it yet will look anyway. It is nil where the kernel cannot tell. wait returns
// after the end of ctx, when nothing is left.
func told(ctx context.Context, folder string) (news <-chan struct{}, wait func()) {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil, func() {}
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := syscall.InotifyAddWatch(fd, folder, syscall.IN_MOVED_TO|syscall.IN_CLOSE_WRITE|syscall.IN_DELETE); err != nil {
		_ = f.Close()
		return nil, func() {}
	}
	context.AfterFunc(ctx, func() { _ = f.Close() })
	c := make(chan struct{}, 1)
	var reading sync.WaitGroup
	reading.Go(func() {
		b := make([]byte, 4096)
		for {
			if _, err := f.Read(b); err != nil {
				return // closed
			}
			select {
			case c <- struct{}{}:
			default:
			}
		}
	})
	return c, reading.Wait
}
