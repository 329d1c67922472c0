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
