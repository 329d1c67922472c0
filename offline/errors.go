package offline

import (
	"errors"
	"fmt"
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
	case errors.Is(err, berrors.ErrMaxSizeReached), isErrno(err, syscall.ENOSPC), isErrno(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", ErrFull, err)
	case errors.As(err, &number), isErrno(err, syscall.EIO), isErrno(err, syscall.EROFS),
		errors.Is(err, berrors.ErrDatabaseNotOpen), errors.Is(err, berrors.ErrInvalidMapping):
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	return err
}

// isErrno looks for a number in an error, and for its words: bbolt passes on only the text of
// what went wrong while it made the file larger.
func isErrno(err error, number syscall.Errno) bool {
	return errors.Is(err, number) || strings.Contains(err.Error(), number.Error())
}
