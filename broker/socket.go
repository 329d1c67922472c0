package broker

import (
	"syscall"
	"unsafe"
)

// The calls below are for sockets that do not block, as all of package net are. They do without
// what the runtime does around other system calls, in case that these block: to tell the scheduler,
// and to wake the thread that takes the processor away from calls that last. For a gateway that
// wakes up for each of a few thousand messages per second that is a fourth of its time.

// socketRead reads from a socket; EAGAIN says that nothing has come yet.
func socketRead(fd uintptr, b []byte) (int, syscall.Errno) {
	return socketCall(syscall.SYS_READ, fd, b)
}

// socketWrite writes to a socket, as much of b as there is room for; EAGAIN says that there is none.
func socketWrite(fd uintptr, b []byte) (int, syscall.Errno) {
	return socketCall(syscall.SYS_WRITE, fd, b)
}

func socketCall(number, fd uintptr, b []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall(number, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), 0
		case syscall.EINTR:
			continue
		default:
			return 0, errno
		}
	}
}

// A port writes to a plain socket what that takes at once.
type port struct {
	raw   syscall.RawConn
	try   func(fd uintptr) bool // attempt, made once
	rest  []byte                // not written yet
	errno syscall.Errno
}

func newPort(raw syscall.RawConn) *port {
	p := &port{raw: raw}
	p.try = p.attempt
	return p
}

// write returns what of b there was no room for.
func (p *port) write(b []byte) (rest []byte, err error) {
	p.rest, p.errno = b, 0
	err = p.raw.Write(p.try)
	rest, p.rest = p.rest, nil
	if err == nil && p.errno != 0 {
		err = p.errno
	}
	return rest, err
}

// attempt writes as much of the rest as there is room for. It never waits for more.
func (p *port) attempt(fd uintptr) bool {
	const most = 64 << 10 // bytes of one call, during which the runtime cannot stop this thread
	for len(p.rest) > 0 {
		piece := p.rest[:min(len(p.rest), most)]
		n, errno := socketWrite(fd, piece)
		if errno != syscall.EAGAIN {
			p.errno = errno
		}
		p.rest = p.rest[n:]
		if n < len(piece) {
			break
		}
	}
	return true
}
