package serial

import (
	"bytes"
	"errors"
	"fmt"
)

// errBinary tells of a frame that no device meant as text.
var errBinary = errors.New("a frame with control characters: check the speed and the wiring")

// A framer cuts a stream of bytes into frames. It never holds more than one frame of the
// greatest length.
type framer struct {
	delim []byte
	max   int // bytes of a frame without its delimiter

	buf   []byte
	skip  bool // until the next delimiter
	fresh bool // nothing has come since the port was opened
}

// newFramer returns a framer for a port that has just been opened. If bytes come at once, we are
// in the middle of a frame: "121.5" may have lost its first digit, so everything before the first
// delimiter is skipped. Only after a pause, which quiet tells of, a frame begins with its beginning.
func newFramer(delim string, max int) *framer {
	return &framer{delim: []byte(delim), max: max, skip: true, fresh: true}
}

// quiet tells that nothing came for a while.
func (f *framer) quiet() {
	if f.fresh {
		f.skip = false
	}
}

// push calls take for each frame that p completes. The frame is valid during the call only; it
// is nil when err tells why it cannot be read.
func (f *framer) push(p []byte, take func(frame []byte, err error)) {
	f.fresh = f.fresh && len(p) == 0
	for _, c := range p {
		f.buf = append(f.buf, c)
		ended := bytes.HasSuffix(f.buf, f.delim)
		switch {
		case ended && f.skip:
			f.skip, f.buf = false, f.buf[:0]
		case ended:
			take(clean(f.buf[:len(f.buf)-len(f.delim)]))
			f.buf = f.buf[:0]
		case f.skip && len(f.buf) >= len(f.delim):
			f.buf = append(f.buf[:0], f.buf[1:]...) // what may be the beginning of a delimiter
		case len(f.buf) == f.max+len(f.delim):
			f.skip = true
			f.buf = append(f.buf[:0], f.buf[len(f.buf)-len(f.delim)+1:]...)
			take(nil, fmt.Errorf("no end of frame within %d bytes: check the speed and the delimiter", f.max))
		}
	}
}

// clean removes what stands around a frame (carriage returns, NULs of a device that starts, STX
// and ETX) and refuses what has control characters, tabs excepted, in its midst.
func clean(frame []byte) ([]byte, error) {
	frame = bytes.TrimFunc(frame, control)
	if bytes.IndexFunc(frame, control) >= 0 {
		return nil, errBinary
	}
	return frame, nil
}

func control(r rune) bool { return r < ' ' && r != '\t' || r == 0x7F }
