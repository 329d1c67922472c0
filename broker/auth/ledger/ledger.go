// Package ledger keeps a small set of records in a file that several processes read and change: the
// gateway while it runs, and its command line beside it.
//
// The file is text, one JSON object a line, the first of which says what it is. A change is made to
// a copy, which is on disk before it takes the file's place: whoever reads sees all of a change or
// nothing of it, whenever the power goes. Changes wait for each other by a lock on a file beside it.
package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gateway/broker/watch"
)

// maxBytes bounds the file.
const maxBytes = 16 << 20

// version is that of the form of the file.
const version = 1

// A Ledger is such a file. Its methods may be called from any goroutine.
type Ledger[R any] struct {
	path, kind string
}

// New returns the ledger at path, which need not be there yet. Kind is the noun for what is in it.
func New[R any](path, kind string) *Ledger[R] { return &Ledger[R]{path, kind} }

// Path returns where the file is.
func (l *Ledger[R]) Path() string { return l.path }

type head struct {
	Ledger  string `json:"ledger"`
	Version int    `json:"version"`
}

// Read returns the records in the order of the file. A file that is not there has none.
func (l *Ledger[R]) Read() ([]R, error) {
	f, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := l.checkMode(f); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", l.path, maxBytes)
	}
	return l.parse(b)
}

// checkMode refuses a file that more users can change than its owner.
func (l *Ledger[R]) checkMode(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", l.path)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s can be changed by others; run: chmod 600 %s", l.path, l.path)
	}
	return nil
}

func (l *Ledger[R]) parse(b []byte) ([]R, error) {
	var records []R
	first := true
	for n := 1; len(b) > 0; n++ {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte("\n"))
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if first {
			first = false
			var h head
			if err := strict(line, &h); err != nil || h.Ledger != l.kind {
				return nil, fmt.Errorf("%s:%d: this is no file of %s", l.path, n, l.kind)
			}
			if h.Version != version {
				return nil, fmt.Errorf("%s:%d: version %d is not known here; use the gateway that wrote it", l.path, n, h.Version)
			}
			continue
		}
		var r R
		if err := strict(line, &r); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", l.path, n, err)
		}
		records = append(records, r)
	}
	if first {
		return nil, fmt.Errorf("%s is empty; remove it, or put a copy back", l.path)
	}
	return records, nil
}

// strict decodes one line, in which a key that is not known is a mistake of whoever wrote it.
func strict(line []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if d.More() {
		return errors.New("more than one JSON object")
	}
	return nil
}

// Change replaces the records by what change makes of them, and returns when that is durable. An
// error of change changes nothing.
func (l *Ledger[R]) Change(change func([]R) ([]R, error)) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	records, err := l.Read()
	if err != nil {
		return err
	}
	if records, err = change(records); err != nil {
		return err
	}
	return l.put(records)
}

// Replace replaces all records, whatever the file has, and returns when that is durable.
func (l *Ledger[R]) Replace(records []R) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return l.put(records)
}

// put writes records. The lock is held.
func (l *Ledger[R]) put(records []R) error {
	var b bytes.Buffer
	lines := json.NewEncoder(&b)
	lines.SetEscapeHTML(false)
	if err := lines.Encode(head{l.kind, version}); err != nil {
		return err
	}
	for i := range records {
		if err := lines.Encode(records[i]); err != nil {
			return err
		}
	}
	if b.Len() > maxBytes {
		return fmt.Errorf("%s would be larger than %d bytes", l.path, maxBytes)
	}
	return l.write(b.Bytes())
}

// lock waits for its turn to change the file.
func (l *Ledger[R]) lock() (unlock func(), err error) {
	f, err := openLock(l.path + ".lock")
	if err != nil {
		return nil, err
	}
	for {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return func() { _ = f.Close() }, nil // which ends the lock
}

// openLock opens the lock, or makes it. The folder belongs to the gateway's user, who must not get root
// to open or to give away another file by a link of this name.
func openLock(path string) (*os.File, error) {
	const how = os.O_RDWR | syscall.O_NOFOLLOW
	f, err := os.OpenFile(path, how|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return os.OpenFile(path, how, 0)
	}
	if err != nil {
		return nil, err
	}
	if err := ownLikeFolder(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// write puts a new file into the place of the old one.
func (l *Ledger[R]) write(b []byte) (err error) {
	folder := filepath.Dir(l.path)
	f, err := os.CreateTemp(folder, filepath.Base(l.path)+".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := ownLikeFolder(f); err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), l.path); err != nil {
		return err
	}
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ownLikeFolder gives a new file of root to the owner of its folder: the gateway, which has to read
// it, runs as somebody else.
func ownLikeFolder(f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(filepath.Dir(f.Name()))
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}

// Follow hands what is in the file, or why it cannot be read, to see: now, and whenever it has
// changed, until ctx ends. Where the kernel does not tell of changes it looks every so often.
func (l *Ledger[R]) Follow(ctx context.Context, every time.Duration, see func([]R, error)) {
	last := ""
	watch.Files(ctx, every, []string{l.path}, func() (again bool) {
		if now := watch.State(l.path); now != last {
			last = now
			see(l.Read())
		}
		return false
	})
}
