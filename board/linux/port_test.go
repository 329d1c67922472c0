package linux

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"gateway/board"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// openPty returns the far end of a serial line, as a device sees it, and the name of the near
// end.
func openPty(t *testing.T) (device *os.File, name string) {
	t.Helper()
	device, near, err := pty.Open()
	if err != nil {
		t.Skip("no pseudo terminals here: ", err)
	}
	name = near.Name()
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.Close() })
	return device, name
}

func portConfig(name string) board.PortConfig {
	return board.PortConfig{Name: name, Baud: 9600, DataBits: 8, Parity: "none", StopBits: 1}
}

func openPort(t *testing.T, name string) board.Port {
	t.Helper()
	b := &Board{log: quiet(), byID: t.TempDir()}
	p, err := b.Port(portConfig(name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestPortCarriesBytes(t *testing.T) {
	device, name := openPty(t)
	p := openPort(t, name)
	if _, err := p.Write([]byte("\x00\x03\r\n\xff")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(device, got); err != nil || string(got) != "\x00\x03\r\n\xff" {
		t.Fatalf("the device read %q, %v", got, err)
	}
	if _, err := device.Write([]byte("T=21\n")); err != nil {
		t.Fatal(err)
	}
	n, err := p.Read(got)
	if err != nil || string(got[:n]) != "T=21\n" {
		t.Fatalf("Read = %q, %v", got[:n], err)
	}
}

func TestQuietPortReadsNothing(t *testing.T) {
	_, name := openPty(t)
	p := openPort(t, name)
	start := time.Now()
	if n, err := p.Read(make([]byte, 9)); n != 0 || err != nil {
		t.Fatalf("Read = %d, %v, want 0, nil", n, err)
	}
	if took := time.Since(start); took < 50*time.Millisecond || took > 2*time.Second {
		t.Errorf("Read took %v, want about 100ms", took)
	}
}

func TestUnpluggedPortIsGoneAndReturns(t *testing.T) {
	device, name := openPty(t)
	// The lasting name is a link that is set anew when the adapter returns.
	link := filepath.Join(t.TempDir(), "usb-adapter")
	if err := os.Symlink(name, link); err != nil {
		t.Fatal(err)
	}
	p := openPort(t, link)
	failed := make(chan error, 1)
	go func() {
		for {
			if _, err := p.Read(make([]byte, 9)); err != nil {
				failed <- err
				return
			}
		}
	}()
	device.Close()
	select {
	case err := <-failed:
		if !errors.Is(err, board.ErrGone) {
			t.Fatalf("Read: %v, want ErrGone", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Read has not noticed that the adapter is gone")
	}
	if _, err := p.Write([]byte("x")); !errors.Is(err, board.ErrGone) {
		t.Errorf("Write: %v, want ErrGone", err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	b := &Board{log: quiet(), byID: filepath.Dir(link)}
	if _, err := b.Port(portConfig(link)); !errors.Is(err, board.ErrGone) {
		t.Errorf("opened while it is away: %v, want ErrGone", err)
	}

	device, name = openPty(t)
	if err := errors.Join(os.Remove(link), os.Symlink(name, link)); err != nil {
		t.Fatal(err)
	}
	p = openPort(t, link)
	if _, err := device.Write([]byte("back")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 9)
	if n, err := p.Read(got); err != nil || string(got[:n]) != "back" {
		t.Errorf("Read = %q, %v", got[:n], err)
	}
}

func TestSecondProgramIsRefused(t *testing.T) {
	_, name := openPty(t)
	p := openPort(t, name)
	b := &Board{log: quiet(), byID: t.TempDir()}
	if _, err := b.Port(portConfig(name)); !errors.Is(err, board.ErrBusy) {
		t.Errorf("a second open: %v, want ErrBusy", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	openPort(t, name) // and is free again
}

func TestCloseDoesNotHang(t *testing.T) {
	_, name := openPty(t)
	p := openPort(t, name)
	reading := make(chan struct{})
	go func() {
		close(reading)
		p.Read(make([]byte, 9))
	}()
	<-reading
	start := time.Now()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("Close took %v behind a Read", took)
	}
	if _, err := p.Read(make([]byte, 9)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
}

func TestStuckDeviceDoesNotBlockWrite(t *testing.T) {
	_, name := openPty(t) // nobody reads: the line's buffer fills
	b := &Board{log: quiet(), byID: t.TempDir()}
	c := portConfig(name)
	c.Baud = 4000000 // the bytes' own time is next to nothing
	p, err := b.Port(c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	start := time.Now()
	n, err := p.Write(make([]byte, 1<<18))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == 1<<18 {
		t.Errorf("Write = %d, %v, want a part and a time-out", n, err)
	}
	if took := time.Since(start); took > writeGrace+5*time.Second {
		t.Errorf("Write took %v", took)
	}
}

func TestPortFaultsSayWhatToDo(t *testing.T) {
	dir := t.TempDir()
	adapter := filepath.Join(dir, "usb-FTDI_FT232R-if00-port0")
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(adapter, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := &Board{log: quiet(), byID: dir}
	_, name := openPty(t)

	odd := portConfig(name)
	odd.Baud = 123
	parity := portConfig(name)
	parity.Parity = "mark"
	for _, tt := range []struct {
		name   string
		config board.PortConfig
		is     error
		says   string
	}{
		{"missing", portConfig(file), board.ErrGone, adapter},
		{"no tty", portConfig(adapter), unix.ENOTTY, "not a serial port"},
		{"speed", odd, nil, "115200"},
		{"parity", parity, nil, "none, even or odd"},
	} {
		_, err := b.Port(tt.config)
		if err == nil || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), tt.config.Name) {
			t.Errorf("%s: %v, want it to name the port and %q", tt.name, err, tt.says)
		}
		if tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%s: %v is not %v", tt.name, err, tt.is)
		}
	}
	// A test that runs as root is refused nothing, hence without opening.
	denied := b.portFault(name, &fs.PathError{Op: "open", Path: name, Err: unix.EACCES})
	if !strings.Contains(denied.Error(), "group dialout") || !errors.Is(denied, fs.ErrPermission) {
		t.Errorf("permission: %v", denied)
	}
	b.byID = filepath.Join(dir, "none")
	if _, err := b.Port(portConfig(file)); err == nil || !strings.HasSuffix(err.Error(), "plugged in: none") {
		t.Errorf("nothing plugged in: %v", err)
	}
}
