package offline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// An image is a bbolt file, read without bbolt. bbolt trusts the file: on a damaged page it
// panics, for some in a goroutine that nothing can catch. An image trusts nothing, returns
// errors, and goes on behind what it cannot read. It reads the file format version 2 of bbolt, in
// the byte order of the processors that the gateway runs on (little-endian).
type image struct {
	r       *disk
	pages   uint64 // pages from here on are not in use, or not there
	missing uint64 // pages that are in use but not there: the file was cut
	root    uint64 // page of the bucket of buckets
	elder   uint64 // the same as of the commit before, 0 if nobody knows
}

// A disk is what an image is read from. It keeps in mind that something could not be read for a reason
// which is not in the file.
type disk struct {
	r      io.ReaderAt
	failed error // the first such error: nobody knows what is in the file
}

func (d *disk) ReadAt(b []byte, off int64) (n int, err error) {
	n, err = d.r.ReadAt(b, off)
	if err != nil && d.failed == nil && !isLoss(err) {
		d.failed = fmt.Errorf("read: %w", err)
	}
	return n, err
}

// isLoss reports whether an error of reading says that what is to be read is lost: the file ends before it,
// or the disk has it no more. Others, such as that there is no memory, pass.
func isLoss(err error) bool {
	for _, loss := range []error{io.EOF, io.ErrUnexpectedEOF, unix.EIO, unix.EBADMSG, unix.EUCLEAN, unix.EILSEQ, unix.ENODATA, unix.EREMOTEIO} {
		if errors.Is(err, loss) {
			return true
		}
	}
	return false
}

const (
	pageHeader = 16 // id uint64, flags uint16, count uint16, overflow uint32
	elemHeader = 16 // of a branch: pos, ksize uint32, page uint64; of a leaf: flags, pos, ksize, vsize uint32
	metaSize   = 64 // magic, version, page size, flags uint32, root, sequence, freelist, pages, txid, checksum uint64

	flagBranch = 0x01
	flagLeaf   = 0x02
	flagBucket = 0x01 // of an element of a leaf: its value is a bucket
	metaMagic  = 0xED0CDAED
	boltFormat = 2
	maxDepth   = 64
)

// metaPage returns the meta data in one of the first two pages, nil if it is not valid.
func metaPage(r io.ReaderAt, page int64) []byte {
	meta := make([]byte, metaSize)
	if _, err := r.ReadAt(meta, page*pageSize+pageHeader); err != nil {
		return nil
	}
	sum := fnv.New64a()
	sum.Write(meta[:metaSize-8])
	le := binary.LittleEndian
	if le.Uint32(meta) != metaMagic || le.Uint32(meta[4:]) != boltFormat || le.Uint32(meta[8:]) != pageSize ||
		le.Uint64(meta[metaSize-8:]) != sum.Sum64() {
		return nil
	}
	return meta
}

func metaTxid(meta []byte) uint64 { return binary.LittleEndian.Uint64(meta[metaSize-16:]) }

// newImage reads the newer of the valid meta pages of a file of size bytes.
func newImage(r io.ReaderAt, size int64) (*image, error) {
	d := &disk{r: r}
	newest, elder := metaPage(d, 0), metaPage(d, 1)
	if newest == nil || elder != nil && metaTxid(elder) > metaTxid(newest) {
		newest, elder = elder, newest
	}
	if d.failed != nil {
		return nil, d.failed
	}
	if newest == nil {
		return nil, fmt.Errorf("%w: it is not a store, or its beginning is destroyed", ErrDamaged)
	}
	le := binary.LittleEndian
	used, there := le.Uint64(newest[40:]), uint64(size/pageSize)
	im := &image{
		r: d, root: le.Uint64(newest[16:]),
		pages: min(used, there), missing: used - min(used, there),
	}
	if elder != nil {
		im.elder = le.Uint64(elder[16:])
	}
	return im, nil
}

// before returns the image as of the commit before, whose pages the newest has not touched; nil if nobody
// knows where it begins.
func (im *image) before() *image {
	if im.elder == 0 {
		return nil
	}
	return &image{r: im.r, root: im.elder, pages: im.pages}
}

// revert invalidates the meta pages of commits after txid, so that the file is as it was then.
func revert(path string, txid uint64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for page := range int64(2) {
		if m := metaPage(f, page); err == nil && m != nil && metaTxid(m) > txid {
			if _, err = f.WriteAt(make([]byte, metaSize), page*pageSize+pageHeader); err == nil {
				err = f.Sync()
			}
		}
	}
	return errors.Join(err, f.Close())
}

// A node is one page of a tree, or the tree of a small bucket within a value.
type node struct {
	b     []byte
	leaf  bool
	count int
}

// parseNode checks all that is needed for the other methods to be safe.
func parseNode(b []byte) (node, error) {
	if len(b) < pageHeader {
		return node{}, fmt.Errorf("%w: %d bytes are no page", ErrDamaged, len(b))
	}
	flags := binary.LittleEndian.Uint16(b[8:])
	n := node{b: b, leaf: flags == flagLeaf, count: int(binary.LittleEndian.Uint16(b[10:]))}
	if flags != flagLeaf && flags != flagBranch {
		return node{}, fmt.Errorf("%w: it has the type %#x", ErrDamaged, flags)
	}
	if pageHeader+n.count*elemHeader > len(b) || !n.leaf && n.count == 0 {
		return node{}, fmt.Errorf("%w: it has %d elements", ErrDamaged, n.count)
	}
	for i := range n.count {
		at := pageHeader + i*elemHeader
		pos, ksize, vsize := n.spans(at)
		// Each is below 2^32, so that the sum of 64-bit numbers cannot overflow.
		if end := uint64(at) + pos + ksize + vsize; pos < uint64(elemHeader) || end > uint64(len(b)) {
			return node{}, fmt.Errorf("%w: element %d ends outside", ErrDamaged, i)
		}
		if i > 0 && bytes.Compare(n.key(i-1), n.key(i)) >= 0 {
			return node{}, fmt.Errorf("%w: key %d is out of order", ErrDamaged, i)
		}
	}
	return n, nil
}

func (n node) spans(at int) (pos, ksize, vsize uint64) {
	le := binary.LittleEndian
	if n.leaf {
		return uint64(le.Uint32(n.b[at+4:])), uint64(le.Uint32(n.b[at+8:])), uint64(le.Uint32(n.b[at+12:]))
	}
	return uint64(le.Uint32(n.b[at:])), uint64(le.Uint32(n.b[at+4:])), 0
}

func (n node) key(i int) []byte {
	at := pageHeader + i*elemHeader
	pos, ksize, _ := n.spans(at)
	return n.b[uint64(at)+pos:][:ksize]
}

func (n node) value(i int) []byte {
	at := pageHeader + i*elemHeader
	pos, ksize, vsize := n.spans(at)
	return n.b[uint64(at)+pos+ksize:][:vsize]
}

func (n node) child(i int) uint64 {
	return binary.LittleEndian.Uint64(n.b[pageHeader+i*elemHeader+8:])
}

func (n node) isBucket(i int) bool {
	return binary.LittleEndian.Uint32(n.b[pageHeader+i*elemHeader:])&flagBucket != 0
}

// load reads one page with all its continuations.
func (im *image) load(id uint64) (node, int, error) {
	const most = 1 << 16 // pages: no value is larger than the largest MQTT packet, 256 MiB
	if id < 2 || id >= im.pages {
		return node{}, 0, fmt.Errorf("%w: page %d of %d", ErrDamaged, id, im.pages)
	}
	b := make([]byte, pageSize)
	if _, err := im.r.ReadAt(b, int64(id)*pageSize); err != nil {
		return node{}, 0, fmt.Errorf("%w: page %d: %w", ErrDamaged, id, err)
	}
	overflow := uint64(binary.LittleEndian.Uint32(b[12:]))
	if self := binary.LittleEndian.Uint64(b); self != id || overflow > most+16 || id+overflow >= im.pages {
		return node{}, 0, fmt.Errorf("%w: page %d says it is page %d with %d more", ErrDamaged, id, self, overflow)
	}
	if overflow > 0 {
		rest := make([]byte, overflow*pageSize)
		if _, err := im.r.ReadAt(rest, int64(id+1)*pageSize); err != nil {
			return node{}, 0, fmt.Errorf("%w: page %d: %w", ErrDamaged, id, err)
		}
		b = append(b, rest...)
	}
	n, err := parseNode(b)
	if err != nil {
		return node{}, 0, fmt.Errorf("page %d: %w", id, err)
	}
	return n, 1 + int(overflow), nil
}

// loadLeaf is load for a page that nothing may refer to, if it is a leaf.
func (im *image) loadLeaf(id uint64) (node, int, error) {
	head := make([]byte, pageHeader)
	if _, err := im.r.ReadAt(head, int64(id)*pageSize); err != nil {
		return node{}, 0, err
	}
	if binary.LittleEndian.Uint64(head) != id || binary.LittleEndian.Uint16(head[8:]) != flagLeaf {
		return node{}, 0, errNoLeaf
	}
	return im.load(id)
}

var errNoLeaf = fmt.Errorf("%w: it is no page with records", ErrDamaged)

// inline returns the small bucket that is the value of an element.
func (n node) inline(i int) (node, error) {
	if value := n.value(i); n.leaf && n.isBucket(i) && len(value) >= 16 && binary.LittleEndian.Uint64(value) == 0 {
		in, err := parseNode(value[16:])
		if err == nil && in.leaf {
			return in, nil
		}
	}
	return node{}, errNoLeaf
}

// A walk visits the keys of a tree in order. What cannot be read is reported to bad and left out.
type walk struct {
	im   *image
	seen map[uint64]struct{} // pages of all trees, each of which may be visited once
	fn   func(key, value []byte, bucket bool) error
	bad  func(error)
	lost func(span) error // called for what was left out, nil: nobody asks
}

// leave leaves out what is below a page.
func (w *walk) leave(s span, why error) error {
	w.bad(why)
	if w.lost != nil {
		return w.lost(s)
	}
	return nil
}

// A span is of the keys from low on that are below high, or without one all from low on.
type span struct{ low, high []byte }

func (s span) has(key []byte) bool { return bytes.Compare(key, s.low) >= 0 && s.before(key) }

func (s span) before(key []byte) bool { return s.high == nil || bytes.Compare(key, s.high) < 0 }

// page walks the tree below a page. All of its keys are from low on and, if there is one, below
// high.
func (w *walk) page(id uint64, low, high []byte, depth int) error {
	all := span{low, high}
	n, pages, err := w.im.load(id)
	if err != nil {
		return w.leave(all, err)
	}
	for i := range uint64(pages) {
		if _, again := w.seen[id+i]; again || depth > maxDepth {
			return w.leave(all, fmt.Errorf("%w: page %d is in use twice", ErrDamaged, id+i))
		}
		w.seen[id+i] = struct{}{}
	}
	if n.count > 0 && (!all.has(n.key(0)) || !all.before(n.key(n.count-1))) {
		return w.leave(all, fmt.Errorf("%w: page %d has keys that belong elsewhere", ErrDamaged, id))
	}
	return w.node(n, high, depth)
}

func (w *walk) node(n node, high []byte, depth int) error {
	for i := range n.count {
		if n.leaf {
			if err := w.fn(n.key(i), n.value(i), n.isBucket(i)); err != nil {
				return err
			}
			continue
		}
		next := high
		if i+1 < n.count {
			next = n.key(i + 1)
		}
		if err := w.page(n.child(i), n.key(i), next, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// A tree is where a bucket is: on pages of its own, or within the value that names it.
type tree struct {
	root   uint64 // 0: inline
	inline []byte
}

// trees finds the buckets.
func (im *image) trees(seen map[uint64]struct{}, bad func(error)) map[string]tree {
	if im.missing > 0 {
		bad(fmt.Errorf("%w: the last %d pages are missing", ErrDamaged, im.missing))
	}
	found := make(map[string]tree)
	w := walk{im: im, seen: seen, bad: bad, fn: func(key, value []byte, bucket bool) error {
		if !bucket || len(value) < 16 {
			bad(fmt.Errorf("%w: %q is no bucket", ErrDamaged, key))
			return nil
		}
		found[string(key)] = tree{root: binary.LittleEndian.Uint64(value), inline: value[16:]}
		return nil
	}}
	_ = w.page(im.root, nil, nil, 0)
	return found
}

// each visits the keys of one bucket, and tells lost, if it is not nil, where there may have been more.
func (im *image) each(t tree, seen map[uint64]struct{}, bad func(error), lost func(span) error, fn func(key, value []byte) error) error {
	w := walk{im: im, seen: seen, bad: bad, lost: lost, fn: func(key, value []byte, bucket bool) error {
		if bucket {
			bad(fmt.Errorf("%w: a bucket at key %x", ErrDamaged, key))
			return nil
		}
		return fn(key, value)
	}}
	if t.root != 0 {
		return w.page(t.root, nil, nil, 0)
	}
	n, err := parseNode(t.inline)
	if err == nil && !n.leaf {
		err = fmt.Errorf("%w: an inline bucket with branches", ErrDamaged)
	}
	if err != nil {
		return w.leave(span{}, err)
	}
	return w.node(n, nil, 0)
}

// get finds one key, without regard to what else may be wrong. It returns nil if it cannot.
func (im *image) get(t tree, key []byte) []byte {
	n, err := parseNode(t.inline)
	if t.root != 0 {
		n, _, err = im.load(t.root)
	}
	for range maxDepth {
		if err != nil {
			return nil
		}
		i := 0
		for i < n.count && bytes.Compare(n.key(i), key) <= 0 {
			i++
		}
		if i == 0 {
			return nil
		}
		if n.leaf {
			if bytes.Equal(n.key(i-1), key) {
				return n.value(i - 1)
			}
			return nil
		}
		n, _, err = im.load(n.child(i - 1))
	}
	return nil
}
