package serial_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"gateway/board"
	"gateway/board/linux"
	"gateway/sensors"
	"gateway/sensors/serial"
)

// An adapter is a pseudo-terminal under a name that lasts, as in /dev/serial/by-id. A pty carries
// no parity and no speed.
type adapter struct {
	name   string
	device *os.File // the far end
	tty    *os.File // keeps the near end alive while nobody has it open
}

func plug(t *testing.T, name string) *adapter {
	t.Helper()
	device, tty, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	defer device.Close()
	// A descriptor of its own that does not block: Close must not wait behind a Read.
	fd, err := syscall.Dup(int(device.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(tty.Name(), name); err != nil {
		t.Fatal(err)
	}
	a := &adapter{name: name, device: os.NewFile(uintptr(fd), device.Name()), tty: tty}
	t.Cleanup(a.unplug)
	return a
}

func (a *adapter) unplug() {
	os.Remove(a.name)
	a.tty.Close()
	a.device.Close()
}

// next waits for a reading of a point that want accepts.
func next(t *testing.T, got <-chan sensors.Reading, want func(sensors.Reading) bool) sensors.Reading {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case r := <-got:
			if want(r) {
				return r
			}
		case <-deadline:
			t.Fatal("the reading did not come within 10 s")
		}
	}
}

func value(v sensors.Value) func(sensors.Reading) bool {
	return func(r sensors.Reading) bool { return r.Quality == sensors.Good && r.Value == v }
}

func isBad(r sensors.Reading) bool { return r.Quality == sensors.Bad }

// TestPTY goes the whole way through the kernel: a port that is missing at start, appears, brings
// readings, takes a command, is unplugged and returns.
func TestPTY(t *testing.T) {
	b, err := linux.New(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "adapter")
	d, err := serial.New(b, serial.Config{
		Port: board.PortConfig{Name: name, Baud: 115200, DataBits: 8, Parity: "none", StopBits: 1},
		Frames: []serial.Frame{
			{Format: serial.JSON, Match: `^{`, Fields: []serial.Field{{Field: "air", Point: "air", Unit: "°C"}}},
			{Format: serial.Regexp, Pattern: `^LAMP (\w+)$`, Fields: []serial.Field{{Field: "1", Point: "lamp", Kind: sensors.Switch}}},
		},
		Writes: []serial.Write{{Point: "lamp", Template: "lamp {value}"}},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan sensors.Reading, 1024)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, func(r sensors.Reading) { got <- r }) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	missing := next(t, got, isBad)
	if !strings.Contains(missing.Err.Error(), "is not there") {
		t.Errorf("a missing port is reported as %q", missing.Err)
	}
	for round := range 2 {
		a := plug(t, name)
		stop := make(chan struct{})
		chatted := make(chan struct{})
		go func() { // the sensor speaks ten times a second
			defer close(chatted)
			for {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
					fmt.Fprintf(a.device, "{\"air\":2%d.5}\r\n", round)
				}
			}
		}()
		answered := make(chan struct{})
		go func() { // and obeys
			defer close(answered)
			for in := bufio.NewScanner(a.device); in.Scan(); {
				if state, ok := strings.CutPrefix(in.Text(), "lamp "); ok {
					fmt.Fprintf(a.device, "LAMP %s\n", state)
				}
			}
		}()
		next(t, got, value(20.5+float64(round)))
		lamp := d.Actuator("lamp")
		if err := lamp.Write(ctx, round == 0); err != nil {
			t.Fatal(err)
		}
		if v, err := lamp.Read(ctx); v != (round == 0) || err != nil {
			t.Errorf("round %d: the lamp reads %v, %v", round, v, err)
		}
		next(t, got, value(round == 0))
		close(stop)
		<-chatted
		a.unplug()
		<-answered
		next(t, got, isBad)
	}
	if s := d.Stats(); s.Opened < 2 || s.Unreadable != 0 {
		t.Errorf("stats %+v, want two openings and no noise", s)
	}
}
