package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The cores: the broker has one, the load another.
const (
	brokerCore = 0
	loadCore   = 1
)

// pinnedMark is in the environment of the program once it has its core.
const pinnedMark = "GATEWAY_BENCH_PINNED"

// pinLoad gives the program its core. It starts itself once more, because threads that exist
// already keep all of theirs.
func pinLoad() error {
	if os.Getenv(pinnedMark) != "" {
		return nil
	}
	if runtime.NumCPU() < 2 {
		return fmt.Errorf("this machine has one core")
	}
	runtime.LockOSThread()
	if err := setCore(loadCore); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), pinnedMark+"="+strconv.Itoa(runtime.NumCPU())))
}

// cores returns how many cores the machine had before pinLoad.
func cores() int {
	if n, err := strconv.Atoi(os.Getenv(pinnedMark)); err == nil {
		return n
	}
	return runtime.NumCPU()
}

func setCore(core int) error {
	var set unix.CPUSet
	set.Set(core)
	return unix.SchedSetaffinity(0, &set)
}

// startOnBrokerCore starts a program that has the broker's core alone, from its first
// instruction on: a process inherits the cores of the thread that forks it.
func startOnBrokerCore(cmd *exec.Cmd) error {
	if os.Getenv(pinnedMark) == "" {
		return cmd.Start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := setCore(brokerCore); err != nil {
		return err
	}
	err := cmd.Start()
	if backErr := setCore(loadCore); err == nil {
		err = backErr
	}
	return err
}

// tick is the unit of CPU times in /proc (proc(5), USER_HZ).
const tick = 10 * time.Millisecond

// cpuTime returns the user and system time that a process has used.
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field, the name, is in parentheses and may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const utime, stime = 14 - 3, 15 - 3 // proc(5) counts from 1, and two fields are cut off
	if len(fields) <= stime {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	user, err := strconv.ParseInt(fields[utime], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[stime], 10, 64)
	return time.Duration(user+system) * tick, err
}

// memory returns the resident memory of a process, and how much of it is no file's, in bytes.
func memory(pid int) (rss, anonymous int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		var kilobytes int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kilobytes); err == nil {
			rss = kilobytes << 10
		}
		if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &kilobytes); err == nil {
			anonymous = kilobytes << 10
		}
	}
	return rss, anonymous, nil
}

// switches returns how often the threads of a process have been given a core and lost it again.
func switches(pid int) (n int64, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return 0, err
	}
	for _, name := range threads {
		status, err := os.ReadFile(name)
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(status)) {
			if name, value, _ := strings.Cut(line, ":"); strings.HasSuffix(name, "ctxt_switches") {
				count, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
				if err != nil {
					return 0, err
				}
				n += count
			}
		}
	}
	return n, nil
}

func cpuModel() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(info)) {
			if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(model)
			}
		}
	}
	return runtime.GOARCH
}
