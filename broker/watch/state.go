package watch

import (
	"fmt"
	"strings"
	"syscall"
)

// State tells one state of files from another: what is in them, and who may read them. Links are followed,
// so that it does not matter how a new file comes into its place. The time at which the status of a file
// has changed is in it (stat(2), st_ctim): a permission that was mended is a change, too.
func State(paths ...string) string {
	var b strings.Builder
	for _, path := range paths {
		var s syscall.Stat_t
		if err := syscall.Stat(path, &s); err != nil {
			fmt.Fprintln(&b, err)
			continue
		}
		fmt.Fprintln(&b, s.Dev, s.Ino, s.Size, s.Mode, s.Uid, s.Gid, s.Mtim.Nano(), s.Ctim.Nano())
	}
	return b.String()
}
