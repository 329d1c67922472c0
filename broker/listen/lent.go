package listen

import (
	"errors"
	"io"
	"sync"
	"syscall"
)

// A lent reader reads a socket through a buffer that it has only while there are bytes in it. Many
// small frames of WebSocket cost one system call, and an idle connection has no buffer.
type lent struct {
	raw    syscall.RawConn
	try    func(fd uintptr) bool // attempt, made once
	rest   []byte                // of buffer, not read yet
	buffer *[]byte               // nil: none
	err    error
}

const lentBuffer = 8 << 10 // bytes

var lentBuffers = sync.Pool{New: func() any { b := make([]byte, lentBuffer); return &b }}

// lend returns a reader of the bytes on the wire; s itself if they are not to be had.
func lend(s io.Reader) io.Reader {
	c, ok := s.(syscall.Conn)
	if !ok {
		return s
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return s
	}
	l := &lent{raw: raw}
	l.try = l.attempt
	return l
}

func (l *lent) Read(b []byte) (int, error) {
	if len(l.rest) == 0 {
		if err := l.raw.Read(l.try); err != nil {
			return 0, err
		}
		if l.err != nil {
			return 0, l.err
		}
	}
	n := copy(b, l.rest)
	if l.rest = l.rest[n:]; len(l.rest) == 0 {
		lentBuffers.Put(l.buffer)
		l.rest, l.buffer = nil, nil
	}
	return n, nil
}

// attempt reads from the socket; false says that nothing has come yet.
func (l *lent) attempt(fd uintptr) bool {
	buffer := lentBuffers.Get().(*[]byte)
	n, err := syscall.Read(int(fd), *buffer)
	for errors.Is(err, syscall.EINTR) {
		n, err = syscall.Read(int(fd), *buffer)
	}
	if n > 0 {
		l.rest, l.buffer = (*buffer)[:n], buffer
		return true
	}
	lentBuffers.Put(buffer)
	if errors.Is(err, syscall.EAGAIN) {
		return false
	}
	if l.err = err; err == nil {
		l.err = io.EOF
	}
	return true
}
