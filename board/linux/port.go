package linux

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tarm/serial"
	"golang.org/x/sys/unix"

	"gateway/board"
)

const (
	// readTick is how long a Read waits. tarm/serial counts in tenths of a second.
	readTick = 100 * time.Millisecond

	// A Read of nothing in less than deadRead, so many times in a row, is an adapter that has
	// been unplugged: the kernel ends every read of it at once and without an error.
	deadRead  = readTick / 2
	deadReads = 3

	// writeGrace is what a Write is given beyond the time that its bytes need on the wire.
	writeGrace = time.Second
)

// A port is a serial port. tarm/serial sets the line up and reads. A second descriptor holds
// the lock, which tarm/serial has not, and writes, because a deadline needs a descriptor that
// does not block.
type port struct {
	name   string
	baud   int
	reader *serial.Port
	writer *os.File
	close  func() error // once
}

// Port opens a serial port for this program alone. A Write that the device does not take within
// a second beyond the bytes' own time fails with os.ErrDeadlineExceeded.
//
// The error is board.ErrBusy if another program has the port, and board.ErrGone if it is not
// there. A port that reports board.ErrGone is to be closed before it is opened again, or the
// adapter returns under another name.
func (b *Board) Port(c board.PortConfig) (board.Port, error) {
	mode, err := portMode(c)
	if err != nil {
		return nil, fmt.Errorf("serial port %s: %w", c.Name, err)
	}
	writer, err := os.OpenFile(c.Name, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, b.portFault(c.Name, err)
	}
	p, err := newPort(c, mode, writer)
	if err != nil {
		writer.Close()
		return nil, b.portFault(c.Name, err)
	}
	return p, nil
}

func newPort(c board.PortConfig, mode *serial.Config, writer *os.File) (*port, error) {
	lock, err := writer.SyscallConn()
	if err != nil {
		return nil, err
	}
	// Two locks: flock is for programs that ask, like this one, and holds against root.
	if err := control(lock.Control, func(fd uintptr) error {
		return unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB)
	}); err != nil {
		return nil, err
	}
	reader, err := serial.OpenPort(mode)
	if err != nil {
		return nil, err
	}
	// TIOCEXCL makes every other open fail, except root's.
	if err := control(lock.Control, func(fd uintptr) error {
		return unix.IoctlSetInt(int(fd), unix.TIOCEXCL, 0)
	}); err != nil {
		reader.Close()
		return nil, err
	}
	p := &port{name: c.Name, baud: c.Baud, reader: reader, writer: writer}
	p.close = sync.OnceValue(func() error {
		// The mark would outlast us if anybody else still had the port open. An unplugged
		// adapter has no marks.
		_ = control(lock.Control, func(fd uintptr) error {
			return unix.IoctlSetInt(int(fd), unix.TIOCNXCL, 0)
		})
		return errors.Join(reader.Close(), writer.Close())
	})
	return p, nil
}

// portMode translates a configuration for tarm/serial.
func portMode(c board.PortConfig) (*serial.Config, error) {
	parities := map[string]serial.Parity{
		"none": serial.ParityNone, "even": serial.ParityEven, "odd": serial.ParityOdd,
	}
	parity, ok := parities[c.Parity]
	switch {
	case c.Baud <= 0:
		return nil, fmt.Errorf("a speed of %d baud is not possible", c.Baud)
	case c.DataBits < 5 || c.DataBits > 8:
		return nil, fmt.Errorf("%d data bits are not possible: 5 to 8", c.DataBits)
	case !ok:
		return nil, fmt.Errorf("parity %q is not known: none, even or odd", c.Parity)
	case c.StopBits != 1 && c.StopBits != 2:
		return nil, fmt.Errorf("%d stop bits are not possible: 1 or 2", c.StopBits)
	}
	return &serial.Config{
		Name: c.Name, Baud: c.Baud, Size: byte(c.DataBits), Parity: parity,
		StopBits: serial.StopBits(c.StopBits), ReadTimeout: readTick,
	}, nil
}

// Read implements board.Port.
func (p *port) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for range deadReads {
		start := time.Now()
		n, err := p.reader.Read(b)
		switch {
		case err == nil:
			return n, nil
		case !errors.Is(err, io.EOF):
			return n, p.err("read", err)
		case time.Since(start) >= deadRead:
			return 0, nil
		}
	}
	return 0, p.err("read", unix.EIO)
}

// Write implements board.Port.
func (p *port) Write(b []byte) (int, error) {
	const bitsPerByte = 12 // a start bit, 8 bits, parity, two stop bits
	wire := time.Duration(len(b)) * bitsPerByte * time.Second / time.Duration(p.baud)
	if err := p.writer.SetWriteDeadline(time.Now().Add(wire + writeGrace)); err != nil {
		return 0, p.err("write", err)
	}
	n, err := p.writer.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return n, fmt.Errorf("serial port %s: write: the device took %d of %d bytes: %w", p.name, n, len(b), err)
	}
	if err != nil {
		return n, p.err("write", err)
	}
	return n, nil
}

// Close releases the port. It waits for a Read that is going on, at most 100 ms.
func (p *port) Close() error {
	if err := p.close(); err != nil && !unplugged(err) {
		return fmt.Errorf("serial port %s: close: %w", p.name, err)
	}
	return nil
}

func (p *port) err(doing string, err error) error {
	if unplugged(err) {
		err = board.ErrGone
	}
	return fmt.Errorf("serial port %s: %s: %w", p.name, doing, err)
}

func unplugged(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV)
}

// portFault says why a port could not be opened.
func (b *Board) portFault(name string, err error) error {
	switch {
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, unix.EBUSY):
		return faultf(board.ErrBusy, "serial port %s is in use by another program: stop it (fuser %s names it)", name, name)
	case errors.Is(err, fs.ErrNotExist), unplugged(err):
		return faultf(board.ErrGone, "serial port %s is not there; plugged in: %s", name, orNothing(b.adapters()))
	case errors.Is(err, fs.ErrPermission):
		return faultf(err, "serial port %s: permission denied: add the user to group dialout", name)
	case errors.Is(err, unix.ENOTTY):
		return faultf(err, "%s is not a serial port; plugged in: %s", name, orNothing(b.adapters()))
	case strings.Contains(err.Error(), "baud rate"): // tarm/serial has no value for it
		return fmt.Errorf("serial port %s: a speed that the kernel has no name for: use 9600, 19200, 115200 or another usual one", name)
	}
	return fmt.Errorf("serial port %s: %w", name, err)
}

// adapters returns the lasting names of the serial adapters that are plugged in.
func (b *Board) adapters() []string {
	names, err := filepath.Glob(filepath.Join(b.byID, "*"))
	if err != nil {
		b.log.Warn("look for serial adapters", "folder", b.byID, "error", err)
	}
	return names
}
