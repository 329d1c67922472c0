package offline

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
)

// TestReason: errors are told apart by what they are. Only bbolt's without a number are told by their text, and
// a client that has such words in a topic makes no full disk of them.
func TestReason(t *testing.T) {
	for _, tt := range []struct {
		err error
		is  error // nil: it has no name
	}{
		{errors.New("file resize error: truncate /d/store.db: no space left on device"), ErrFull},
		{errors.New("file sync error: sync /d/store.db: disk quota exceeded"), ErrFull},
		{errors.New("file sync error: sync /d/store.db: input/output error"), ErrDisk},
		{errors.New("file resize error: truncate /d/store.db: read-only file system"), syscall.EROFS},
		{errors.New("mmap allocate error: cannot allocate memory"), ErrDisk},
		{&os.PathError{Op: "write", Err: syscall.ENOSPC}, ErrFull},
		{fmt.Errorf("fdatasync: %w", syscall.EIO), ErrDisk},
		{errors.New(`the topic "input/output error" cannot be stored`), nil},
		{errors.New("of the client no space left on device"), nil},
		{errors.New("file resize error: of another kind"), nil},
	} {
		got := reason(numbered(tt.err))
		if tt.is != nil && !errors.Is(got, tt.is) || tt.is == nil && got != tt.err {
			t.Errorf("%v became %v", tt.err, got)
		}
		if !errors.Is(got, tt.err) {
			t.Errorf("%v is not in %v", tt.err, got)
		}
	}
}
