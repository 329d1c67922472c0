package watch

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A kernel tells of changes of some files, and of the folders that lead to them.
type kernel struct {
	files   []string
	in      *os.File
	raw     syscall.RawConn // of in
	told    atomic.Bool     // it tells of changes of all files
	news    chan struct{}   // has room for one: who has not taken it yet will look anyway
	reading sync.WaitGroup
	watched map[string]int // paths, with what the kernel calls them
}

// changes are what is asked for. What is written to a file that stays open, as the
// store's, wakes nobody.
const changes = syscall.IN_CREATE | syscall.IN_CLOSE_WRITE | syscall.IN_ATTRIB | syscall.IN_MOVED_TO | syscall.IN_MOVED_FROM |
	syscall.IN_DELETE | syscall.IN_DELETE_SELF | syscall.IN_MOVE_SELF

// ask asks the kernel to tell of changes from now on. It returns nil if it does not do that.
func ask(files []string) *kernel {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	k := &kernel{files: files, in: os.NewFile(uintptr(fd), "inotify"), news: make(chan struct{}, 1)}
	if k.raw, err = k.in.SyscallConn(); err != nil {
		_ = k.in.Close()
		return nil
	}
	k.follow()
	return k
}

func (k *kernel) close() {
	_ = k.in.Close()
	k.reading.Wait()
}

// read takes what the kernel tells, until the kernel is closed. What that is is of no interest: that
// there is something leads to a look.
func (k *kernel) read(ctx context.Context) {
	b := make([]byte, 4096)
	for {
		if _, err := k.in.Read(b); err != nil {
			k.told.Store(false)
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		k.follow()
		select {
		case k.news <- struct{}{}:
		default:
		}
	}
}

// follow has the kernel tell of the paths by which the files are found now. What has changed before it
// does is looked for again, a few times.
func (k *kernel) follow() {
	for range 8 {
		paths := make(map[string]bool)
		for _, file := range k.files {
			trace(file, paths)
		}
		settled := false
		_ = k.raw.Control(func(fd uintptr) { settled = k.watch(int(fd), paths) }) // closed: nobody looks any more
		if settled {
			return
		}
	}
	k.told.Store(false)
}

// watch has the kernel tell of these paths and no others. It reports whether it did so before.
func (k *kernel) watch(fd int, paths map[string]bool) (settled bool) {
	settled = true
	told, watched, stay := true, make(map[string]int), make(map[int]bool)
	for path := range paths {
		n, err := syscall.InotifyAddWatch(fd, path, changes)
		if err != nil {
			told = false
			continue
		}
		told = told && !remote(path)
		before, known := k.watched[path]
		settled = settled && known && before == n
		watched[path], stay[n] = n, true
	}
	for _, n := range k.watched {
		if !stay[n] {
			_, _ = syscall.InotifyRmWatch(fd, uint32(n)) // it may be gone, and this with it
		}
	}
	k.watched = watched
	k.told.Store(told)
	return settled
}

// mostLinks bounds the links on the way to a file, as the kernel does (path_resolution(7)).
const mostLinks = 40

// trace adds to paths those whose changes may lead to another file, or to other content: each folder
// that has a link on the way, the one in which the way ends, and what it leads to, if that is there.
func trace(file string, paths map[string]bool) {
	file, err := filepath.Abs(file)
	if err != nil {
		return
	}
	at, rest := "/", strings.Split(file, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		switch {
		case err != nil:
			paths[at] = true
			return
		case info.Mode()&os.ModeSymlink != 0:
			paths[at] = true
			to, err := os.Readlink(next)
			if links++; err != nil || links > mostLinks {
				return
			}
			if filepath.IsAbs(to) {
				at = "/"
			}
			rest = append(strings.Split(to, "/"), rest...)
		case info.IsDir():
			at = next
		default:
			paths[at], paths[next] = true, true
		}
	}
}

// File systems on which others may change files without this kernel's knowledge (statfs(2)).
var others = map[uint32]bool{
	0x6969: true, 0x517B: true, 0xFF534D42: true, 0xFE534D42: true, // NFS, SMB
	0x65735546: true, 0x01021997: true, // FUSE and virtiofs, 9P
	0x00C36400: true, 0x5346414F: true, 0x73757245: true, // Ceph, AFS, Coda
}

func remote(path string) bool {
	var s syscall.Statfs_t
	return syscall.Statfs(path, &s) == nil && others[uint32(s.Type)]
}
