package linux

import (
	"encoding/binary"
	"os"
	"time"

	"github.com/warthog618/go-gpiocdev/uapi"
	"golang.org/x/sys/unix"

	"gateway/board"
)

// consumer is the name that the kernel shows others for our lines.
const consumer = "gateway"

// A cdevLine is a line taken with the ioctls of go-gpiocdev (package uapi), which keep errno,
// take lines without a name, and give an output its level together with its direction.
//
// It is not gpiocdev.Line, because that never tells its event handler that the chip has gone,
// and polls the dead descriptor without pause.
type cdevLine struct {
	file *os.File
}

// requestCdev takes a line.
func requestCdev(p place, c board.LineConfig) (request, error) {
	chip, err := os.Open("/dev/" + p.chip)
	if err != nil {
		return nil, err
	}
	defer chip.Close()
	r := uapi.LineRequest{Lines: 1}
	r.Offsets[0] = uint32(p.offset)
	copy(r.Consumer[:len(r.Consumer)-1], consumer)
	if c.Output {
		r.Config.Flags = uapi.LineFlagV2Output
		var a uapi.LineConfigAttribute
		a.Attr = uapi.OutputValues(bit(c.Initial != c.ActiveLow)).Encode()
		a.Mask = 1
		r.Config.AddAttribute(a)
	} else {
		r.Config.Flags = uapi.LineFlagV2Input | uapi.LineFlagV2EdgeBoth
		switch c.Pull {
		case board.PullUp:
			r.Config.Flags |= uapi.LineFlagV2BiasPullUp
		case board.PullDown:
			r.Config.Flags |= uapi.LineFlagV2BiasPullDown
		}
	}
	conn, err := chip.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := control(conn.Control, func(fd uintptr) error { return uapi.GetLine(fd, &r) }); err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(int(r.Fd), true); err != nil {
		unix.Close(int(r.Fd))
		return nil, err
	}
	return &cdevLine{os.NewFile(uintptr(r.Fd), p.chip)}, nil
}

func bit(high bool) uapi.LineBitmap {
	if high {
		return 1
	}
	return 0
}

// control runs an ioctl while the descriptor cannot be closed.
func control(with func(func(fd uintptr)) error, ioctl func(fd uintptr) error) error {
	var err error
	if closed := with(func(fd uintptr) { err = ioctl(fd) }); closed != nil {
		return closed
	}
	return err
}

func (l *cdevLine) ioctl(f func(fd uintptr) error) error {
	conn, err := l.file.SyscallConn()
	if err != nil {
		return err
	}
	return control(conn.Control, f)
}

func (l *cdevLine) get() (high bool, err error) {
	v := uapi.LineValues{Mask: 1}
	err = l.ioctl(func(fd uintptr) error { return uapi.GetLineValuesV2(fd, &v) })
	return v.Get(0) != 0, err
}

func (l *cdevLine) set(high bool) error {
	v := uapi.LineValues{Mask: 1, Bits: bit(high)}
	return l.ioctl(func(fd uintptr) error { return uapi.SetLineValuesV2(fd, v) })
}

func (l *cdevLine) edge(limit time.Duration) (high bool, err error) {
	if err := l.file.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return false, err
	}
	var e uapi.LineEvent
	if err := binary.Read(l.file, binary.NativeEndian, &e); err != nil {
		return false, err
	}
	return e.ID == uapi.LineEventRisingEdge, nil
}

func (l *cdevLine) interrupt() error { return l.file.SetReadDeadline(time.Now()) }

func (l *cdevLine) close() error { return l.file.Close() }
