// Package watch tells when files may have changed, so that nobody has to look at them again and
// again: the kernel is asked to wake the gateway (inotify(7)).
package watch

import (
	"context"
	"time"
)

const (
	// slowly is the time between looks although the kernel would tell of a change: there may be ways
	// to change a file that it does not see.
	slowly = 30 * time.Second
	// pause is between a change and the look. Changes seldom come alone: a file that was made a moment
	// ago is still empty.
	pause = 50 * time.Millisecond
)

// Files calls look now, and whenever one of the files may have changed, until ctx ends. Links on the
// way to a file are followed, and their changes told; files and folders need not be there yet. After
// look has returned true it is called again when every has passed. So it is, always, where the kernel
// cannot tell of changes, as on file systems of the network.
func Files(ctx context.Context, every time.Duration, files []string, look func() (again bool)) {
	var news <-chan struct{} // nil: there are none
	told := func() bool { return false }
	if k := ask(files); k != nil {
		defer k.close()
		k.reading.Go(func() { k.read(ctx) })
		news, told = k.news, k.told.Load
	}
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		next := every
		if again := look(); !again && told() {
			next = slowly
		}
		timer.Reset(next)
		select {
		case <-news:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}
