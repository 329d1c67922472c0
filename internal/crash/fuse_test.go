package crash

import (
	"context"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// slowest is the longest time that a simulated disk takes for fsync: what happens meanwhile is
// what a power cut is about.
const slowest = 4 * time.Millisecond

// mount shows a disk at a folder of this machine, until unmount is called. The kernel knows
// nothing of a disk that was mounted before.
func (d *disk) mount(t *testing.T) (folder string, unmount func()) {
	t.Helper()
	folder = t.TempDir()
	root := &folderNode{disk: d}
	server, err := fs.Mount(folder, root, &fs.Options{
		MountOptions: fuse.MountOptions{FsName: "powercut", Name: "powercut", DirectMountStrict: true, DisableXAttrs: true},
		OnAdd: func(ctx context.Context) {
			for name, node := range d.names {
				root.AddChild(name, root.child(ctx, node), true)
			}
		},
	})
	if err != nil {
		t.Fatalf("mount: %v", err)
	}
	return folder, func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
		server.Wait()
	}
}

// needDisk skips a test where no disk can be simulated.
func needDisk(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil || os.Getuid() != 0 {
		t.Skipf("no simulated disk: it needs root and /dev/fuse (%v)", err)
	}
	f.Close()
}

// A folderNode is the folder, as the kernel asks for it.
type folderNode struct {
	fs.Inode
	disk *disk
}

func (n *folderNode) child(ctx context.Context, node int) *fs.Inode {
	return n.NewPersistentInode(ctx, &fileNode{disk: n.disk, node: node}, fs.StableAttr{Mode: syscall.S_IFREG})
}

func (n *folderNode) Create(ctx context.Context, name string, _, _ uint32, _ *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	node, errno := n.disk.do(op{kind: opCreate, name: name})
	if errno != 0 {
		return nil, nil, 0, errno
	}
	return n.child(ctx, node), nil, 0, 0
}

func (n *folderNode) Unlink(_ context.Context, name string) syscall.Errno {
	_, errno := n.disk.do(op{kind: opRemove, name: name})
	return errno
}

func (n *folderNode) Rename(_ context.Context, name string, _ fs.InodeEmbedder, to string, _ uint32) syscall.Errno {
	_, errno := n.disk.do(op{kind: opRename, name: name, to: to})
	return errno
}

func (n *folderNode) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	_, errno := n.disk.do(op{kind: opSyncFolder})
	return errno
}

// A fileNode is a file, as the kernel asks for it.
type fileNode struct {
	fs.Inode
	disk *disk
	node int
}

func (n *fileNode) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, 0, 0
}

func (n *fileNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	out.Mode, out.Size = 0o600, uint64(len(n.disk.inodes[n.node].data))
	return 0
}

func (n *fileNode) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		if _, errno := n.disk.do(op{kind: opTruncate, inode: n.node, off: int64(size)}); errno != 0 {
			return errno
		}
	}
	return n.Getattr(ctx, h, out)
}

func (n *fileNode) Read(_ context.Context, _ fs.FileHandle, dst []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	data := n.disk.inodes[n.node].data
	return fuse.ReadResultData(dst[:copy(dst, data[min(off, int64(len(data))):])]), 0
}

func (n *fileNode) Write(_ context.Context, _ fs.FileHandle, b []byte, off int64) (uint32, syscall.Errno) {
	_, errno := n.disk.do(op{kind: opWrite, inode: n.node, off: off, data: b})
	return uint32(len(b)), errno
}

// Allocate makes holes only. On this disk a hole is zeros that were written, sector by sector.
func (n *fileNode) Allocate(_ context.Context, _ fs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	if mode != unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE {
		return syscall.EOPNOTSUPP
	}
	_, errno := n.disk.do(op{kind: opWrite, inode: n.node, off: int64(off), data: make([]byte, size)})
	return errno
}

// Fsync takes its time, and is good for what was written before it began.
func (n *fileNode) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	n.disk.mu.Lock()
	before := len(n.disk.inodes[n.node].writes)
	n.disk.mu.Unlock()
	time.Sleep(rand.N(slowest))
	_, errno := n.disk.do(op{kind: opSync, inode: n.node, off: int64(before)})
	return errno
}
