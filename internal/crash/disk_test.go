package crash

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
)

// sector is what a disk writes whole or not at all, in bytes.
const sector = 512

// A disk is a folder on a disk whose power can fail. What a program has written is there for it
// to read, but survives a cut only once it was synced: file contents by fsync of the file, names
// by fsync of the folder.
type disk struct {
	mu      sync.Mutex
	inodes  []*inode
	names   map[string]int // file name -> inode, as programs see it
	durable map[string]int // the same, as of the last fsync of the folder
	renamed []op           // changes of names since
	log     []op           // everything that happened, if it is recorded
	records bool
	lies    bool // fsync does nothing, as if it were missing

	off  bool          // the power has failed: nothing happens any more
	gone chan struct{} // closed when the program is dead as well
}

// An inode is one file, whatever its name.
type inode struct {
	data   []byte // as programs see it
	synced []byte // as it is on the disk for sure
	writes []op   // since the last fsync, in their order
}

// An op is one thing that a program did to the folder, or that it said.
type op struct {
	kind  opKind
	inode int
	name  string // of create, remove and rename; the text of a mark
	to    string
	off   int64 // of write; the new size of truncate; how many writes a sync is for
	data  []byte
}

type opKind byte

const (
	opCreate opKind = iota
	opRemove
	opRename
	opWrite
	opTruncate
	opSync       // of a file
	opSyncFolder // of the names
	opMark       // a message was acknowledged
)

func newDisk() *disk {
	return &disk{names: map[string]int{}, durable: map[string]int{}, gone: make(chan struct{})}
}

// do carries out what a program does, unless the power has failed: then it waits for the end of
// the program, as it would on a machine that has none.
func (d *disk) do(o op) (node int, errno syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		gone := d.gone
		d.mu.Unlock()
		<-gone
		d.mu.Lock()
		return 0, syscall.EIO
	}
	if d.records {
		o.data = slices.Clone(o.data)
		d.log = append(d.log, o)
	}
	return d.apply(o), 0
}

// apply changes the folder. The lock is held. It returns the inode of a file that is created.
func (d *disk) apply(o op) int {
	switch o.kind {
	case opCreate:
		o.inode = len(d.inodes)
		d.inodes = append(d.inodes, &inode{})
		rename(d.names, o)
		d.renamed = append(d.renamed, o)
	case opRemove, opRename:
		o.inode = d.names[o.name]
		rename(d.names, o)
		d.renamed = append(d.renamed, o)
	case opWrite, opTruncate:
		n := d.inodes[o.inode]
		n.data = change(n.data, o)
		o.data = slices.Clone(o.data)
		n.writes = append(n.writes, o)
	case opSync:
		if n := d.inodes[o.inode]; !d.lies {
			for _, w := range n.writes[:o.off] {
				n.synced = change(n.synced, w)
			}
			n.writes = n.writes[o.off:]
		}
	case opSyncFolder:
		if !d.lies {
			for _, r := range d.renamed {
				rename(d.durable, r)
			}
			d.renamed = nil
		}
	}
	return o.inode
}

// rename applies a change to names.
func rename(names map[string]int, o op) {
	switch o.kind {
	case opCreate:
		names[o.name] = o.inode
	case opRename:
		names[o.to] = o.inode
		fallthrough
	case opRemove:
		delete(names, o.name)
	}
}

// change applies a write or a truncation to the content of a file.
func change(b []byte, o op) []byte {
	end := int(o.off) + len(o.data)
	if o.kind == opTruncate && end < len(b) {
		return b[:end]
	}
	if end > len(b) {
		b = append(b, make([]byte, end-len(b))...)
	}
	copy(b[o.off:], o.data)
	return b
}

// A fate decides what becomes of that which was not synced when the power failed.
type fate int

const (
	allLost fate = iota
	allKept
	torn // any sectors of any writes, in any order
	fates
)

// image returns what is in the folder after a power cut now.
func (d *disk) image(f fate, random *rand.Rand) map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := make(map[string]int, len(d.durable))
	for name, node := range d.durable {
		names[name] = node
	}
	kept := 0
	switch f {
	case allKept:
		kept = len(d.renamed)
	case torn: // a file system keeps a journal of names: the first ones
		kept = random.IntN(len(d.renamed) + 1)
	}
	for _, r := range d.renamed[:kept] {
		rename(names, r)
	}
	files := make(map[string][]byte, len(names))
	for name, node := range names {
		files[name] = d.inodes[node].after(f, random)
	}
	return files
}

// after returns the content of a file after a power cut.
func (n *inode) after(f fate, random *rand.Rand) []byte {
	b := slices.Clone(n.synced)
	switch f {
	case allKept:
		b = slices.Clone(n.data)
	case torn:
		for _, i := range random.Perm(len(n.writes)) {
			b = tear(b, n.writes[i], random)
		}
	}
	return b
}

// tear applies some sectors of a write.
func tear(b []byte, w op, random *rand.Rand) []byte {
	if w.kind == opTruncate {
		if random.IntN(2) == 0 {
			b = change(b, w)
		}
		return b
	}
	for len(w.data) > 0 {
		n := min(sector-int(w.off)%sector, len(w.data))
		if random.IntN(2) == 0 {
			b = change(b, op{kind: opWrite, off: w.off, data: w.data[:n]})
		}
		w.data, w.off = w.data[n:], w.off+int64(n)
	}
	return b
}

// fail cuts the power: from now on no operation has an effect, or an end.
func (d *disk) fail() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
}

// restore gives the power back, on what a cut has left. The program of before is dead.
func (d *disk) restore(files map[string][]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inodes, d.renamed = nil, nil
	d.names, d.durable = map[string]int{}, map[string]int{}
	for name, b := range files {
		d.names[name], d.durable[name] = len(d.inodes), len(d.inodes)
		d.inodes = append(d.inodes, &inode{data: slices.Clone(b), synced: slices.Clone(b)})
	}
	d.off, d.gone = false, make(chan struct{})
}

func (o op) String() string {
	switch o.kind {
	case opCreate, opRemove, opRename:
		return fmt.Sprintf("%s %s %s", []string{"create", "remove", "rename"}[o.kind], o.name, o.to)
	case opWrite:
		return fmt.Sprintf("write %d bytes at %d", len(o.data), o.off)
	case opTruncate:
		return fmt.Sprintf("truncate to %d", o.off)
	}
	return "fsync"
}

func (f fate) String() string {
	return []string{"the unsynced is lost", "the unsynced is kept", "the unsynced is torn"}[f]
}
