package offline

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ProcessWritten returns how many bytes this process has caused to be sent to disks since it began
// (proc(5), /proc/pid/io, write_bytes).
func ProcessWritten() (n int64, err error) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text), "\nwrite_bytes: ")
	if _, err := fmt.Sscan(rest, &n); !ok || err != nil {
		return 0, errors.New("/proc/self/io has no write_bytes")
	}
	return n, nil
}

// DeviceWritten returns how many bytes everybody has sent to the disk, or the partition, that a file
// is on, since the machine started (Documentation/block/stat.rst, write sectors). What is on no disk
// has an error.
func DeviceWritten(path string) (int64, error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	name := fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(uint64(s.Dev)), unix.Minor(uint64(s.Dev)))
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	const sectors, sector = 6, 512
	fields := strings.Fields(string(text))
	var n int64
	if len(fields) <= sectors {
		return 0, fmt.Errorf("%s has %d fields", name, len(fields))
	}
	if _, err := fmt.Sscan(fields[sectors], &n); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return n * sector, nil
}
