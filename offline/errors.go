package offline

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	berrors "go.etcd.io/bbolt/errors"

	"gateway/broker/session"
)

// The reasons why changes do not become durable, or a store does not open.
var (
	// ErrFull tells that the quota, the file system or the limit of the file leaves no room for
	// more messages. Changes that free room still go through.
	ErrFull = session.ErrFull
	// ErrDisk tells that the disk did not take the changes. The next ones are tried afresh.
	ErrDisk = errors.New("the disk failed")
	// ErrDamaged tells that the file contradicts itself.
	ErrDamaged = errors.New("the store is damaged")
	// ErrClosed tells that the store was closed before the changes came.
	ErrClosed = errors.New("the store is closed")
	// ErrInUse tells that another process holds the store.
	ErrInUse = errors.New("the store is in use by another process")
	// ErrVersion tells that a later version of the gateway wrote the file.
	ErrVersion = errors.New("the store has a later format than this gateway knows")
)

// A unitError tells that one unit, and no other, made a transaction fail.
type unitError struct {
	unit *unit
	err  error
}

func (e *unitError) Error() string { return e.err.Error() }
func (e *unitError) Unwrap() error { return e.err }

// reason gives an error of a transaction its name: ErrFull, ErrDisk or ErrDamaged. What has none
// of these names is the fault of a unit and not of the disk.
func reason(err error) error {
	var number syscall.Errno
	switch {
	case err == nil, errors.Is(err, ErrFull), errors.Is(err, ErrDisk), errors.Is(err, ErrDamaged):
		return err
	case errors.Is(err, berrors.ErrMaxSizeReached), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", ErrFull, err)
	case errors.As(err, &number),
		errors.Is(err, berrors.ErrDatabaseNotOpen), errors.Is(err, berrors.ErrInvalidMapping):
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	return err
}

// A growError is what bbolt could not do to make the file larger, with the number that it left out.
type growError struct {
	error
	number syscall.Errno
}

func (e growError) Unwrap() []error { return []error{e.error, e.number} }

// numbered gives an error of bbolt's the number of what the system said. bbolt passes on only the text of what
// goes wrong while it makes the file, or its map, larger (db.go, grow and allocate): nothing but the text is left
// to tell by. Its other errors have it.
func numbered(err error) error {
	if err == nil || errors.As(err, new(syscall.Errno)) {
		return err
	}
	text := err.Error()
	if !slices.ContainsFunc([]string{"file resize error: ", "file sync error: ", "mmap allocate error: "}, func(begins string) bool {
		return strings.HasPrefix(text, begins)
	}) {
		return err
	}
	for _, number := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS, syscall.EFBIG, syscall.ENOMEM} {
		if strings.HasSuffix(text, number.Error()) {
			return growError{err, number}
		}
	}
	return err
}
