//go:build linux

// Command init is the first process of the test kernel: it mounts what a program expects,
// runs the one command that internal/vm/run has left for it, prints how that ended, and
// switches the machine off.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// exitBroken is the exit code when the command could not be run at all.
const exitBroken = 125

func main() {
	rawConsole()
	code := exitBroken
	err := errors.Join(mounts(), loopback())
	if err == nil {
		fmt.Println("vm: start")
		code, err = command(os.Getenv("vm"))
	}
	if err != nil {
		fmt.Println("vm:", err)
	}
	fmt.Printf("vm: exit %d\n", code)
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("vm: power off:", err)
	}
}

// rawConsole stops the console from turning "\n" into "\r\n".
func rawConsole() {
	t, err := unix.IoctlGetTermios(1, unix.TCGETS)
	if err != nil {
		return // not a terminal
	}
	t.Oflag &^= unix.OPOST
	if err := unix.IoctlSetTermios(1, unix.TCSETS, t); err != nil {
		fmt.Println("vm: console:", err)
	}
}

// mounts shows the test kernel's own devices in place of the host's. /tmp stays the host's,
// because go test keeps the test binary there; /dev/shm is the guest's own.
func mounts() error {
	for _, m := range []struct{ fs, dir string }{
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"configfs", "/sys/kernel/config"},
		{"debugfs", "/sys/kernel/debug"},
		{"devtmpfs", "/dev"},
		{"devpts", "/dev/pts"},
		{"tmpfs", "/dev/shm"},
	} {
		// Only the file systems just mounted take a new folder; the others have theirs.
		if err := os.Mkdir(m.dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	return nil
}

// loopback switches the only network interface on.
func loopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// command runs what is written in dir: the file "command" has the working directory and the
// arguments, "env" the environment, each string ended by a zero byte.
func command(dir string) (code int, err error) {
	words, err := readWords(filepath.Join(dir, "command"))
	if err != nil {
		return exitBroken, err
	}
	env, err := readWords(filepath.Join(dir, "env"))
	if err != nil {
		return exitBroken, err
	}
	if len(words) < 2 {
		return exitBroken, errors.New("no command")
	}
	env = slices.DeleteFunc(env, func(s string) bool { return strings.HasPrefix(s, "TMPDIR=") })

	c := exec.Command(words[1], words[2:]...)
	c.Dir = words[0]
	c.Env = append(env, "TMPDIR=/dev/shm", "GATEWAY_VM=1")
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	err = c.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		if exit.ExitCode() < 0 {
			return exitBroken, err // a signal ended it
		}
		return exit.ExitCode(), nil
	}
	if err != nil {
		return exitBroken, err
	}
	return 0, nil
}

func readWords(name string) ([]string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var words []string
	for w := range bytes.SplitSeq(bytes.TrimSuffix(b, []byte{0}), []byte{0}) {
		words = append(words, string(w))
	}
	return words, nil
}
