// Package linux finds the digital lines and serial ports of a Linux machine.
//
// Lines are taken through the kernel's GPIO character device, by way of periph.io where it does
// the job and of go-gpiocdev where it cannot; docs/adr/0004-gpio-backends.md has the reasons.
// Serial ports are tarm/serial's.
package linux

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/warthog618/go-gpiocdev"
	"golang.org/x/sys/unix"
	"periph.io/x/conn/v3/driver/driverreg"

	"gateway/board"
)

// byID is where udev gives serial adapters names that they keep.
const byID = "/dev/serial/by-id"

// A Board is the machine that the program runs on.
type Board struct {
	log  *slog.Logger
	byID string
}

var _ board.Board = (*Board)(nil)

// New looks at the machine. A machine without GPIO chips is one without lines, not an error.
//
// Call it before other goroutines open files: periph.io, which looks at the chips once in the
// life of a process, closes a file descriptor twice if it meets a chip under two names.
func New(log *slog.Logger) (*Board, error) {
	b := &Board{log: log, byID: byID}
	if err := keepStdin(initPeriph); err != nil {
		return nil, fmt.Errorf("board: %w", err)
	}
	return b, nil
}

// initPeriph makes periph.io look for GPIO chips, unless there is none that may be opened: it
// would complain about each to the standard logger.
func initPeriph() error {
	for _, chip := range gpiocdev.Chips() {
		if unix.Access("/dev/"+chip, unix.R_OK) == nil {
			_, err := driverreg.Init()
			return err
		}
	}
	return nil
}

// keepStdin runs f and sees to it that file descriptor 0 is afterwards what it was before.
// periph.io closes it when it meets a GPIO chip under two names, as on a Raspberry Pi, and the
// next file to be opened, perhaps a store, would be taken for the standard input.
func keepStdin(f func() error) error {
	saved, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
	if errors.Is(err, unix.EBADF) { // it was closed: let nothing else become it
		_, err = unix.Open("/dev/null", unix.O_RDONLY, 0)
		return errors.Join(err, f())
	}
	if err != nil {
		return fmt.Errorf("keep the standard input: %w", err)
	}
	defer unix.Close(saved)
	err = f()
	if _, gone := unix.FcntlInt(0, unix.F_GETFD, 0); gone != nil {
		err = errors.Join(err, unix.Dup3(saved, 0, 0))
	}
	return err
}

// A fault is an error that has a sentence of its own for people, and a cause for the program.
type fault struct {
	text  string
	cause error
}

func (f *fault) Error() string { return f.text }
func (f *fault) Unwrap() error { return f.cause }

func faultf(cause error, format string, args ...any) error {
	return &fault{fmt.Sprintf(format, args...), cause}
}
