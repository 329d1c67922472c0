package listen_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gateway/broker/listen"
)

// openUnix opens a socket in a folder of its own.
func openUnix(t *testing.T, path string, s listen.Socket) (*listen.Listener, error) {
	t.Helper()
	ln, err := listen.Open(t.Context(), listen.Options{Address: "unix:" + path, Socket: s})
	if err == nil {
		t.Cleanup(func() { _ = ln.Close() })
	}
	return ln, err
}

// TestUnixSocket has owner, group and mode from the first moment on, and leaves nothing behind.
func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mqtt.sock")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		socket listen.Socket
		mode   fs.FileMode
	}{
		{listen.Socket{}, 0o660},
		{listen.Socket{Mode: 0o600, Owner: me.Username}, 0o600},
		{listen.Socket{Mode: 0o666, Owner: me.Uid, Group: me.Gid}, 0o666},
	} {
		e := serve(t, listen.Options{Address: "unix:" + path, Socket: tt.socket, Protocols: listen.MQTT | listen.WebSocket})
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != fs.ModeSocket|tt.mode {
			t.Errorf("mode %v, want %v", info.Mode(), tt.mode)
		}
		nc, err := listen.Dial(t.Context(), "unix://"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, nc, hello)
		_ = nc.Close()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		left, err := os.ReadDir(filepath.Dir(path))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// TestUnixOwner gives the socket to somebody else, as root can.
func TestUnixOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	path := filepath.Join(t.TempDir(), "mqtt.sock")
	if _, err := openUnix(t, path, listen.Socket{Owner: "nobody", Group: "daemon"}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	group, err := user.LookupGroup("daemon")
	if err != nil {
		t.Fatal(err)
	}
	s := info.Sys().(*syscall.Stat_t)
	if got, want := fmt.Sprintf("%d:%d", s.Uid, s.Gid), owner.Uid+":"+group.Gid; got != want {
		t.Errorf("owner and group %s, want %s", got, want)
	}
}

// TestUnixPeer has an address that says something.
func TestUnixPeer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mqtt.sock")
	ln, err := openUnix(t, path, listen.Socket{})
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if got := nc.RemoteAddr().String(); got != path {
		t.Errorf("RemoteAddr %q, want %q", got, path)
	}
	if _, ok := nc.(syscall.Conn); !ok {
		t.Error("the reader cannot have the socket")
	}
}

// TestLeftover takes the place of a socket on which nobody listens, and of nothing else.
func TestLeftover(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mqtt.sock")
	for _, name := range []string{path, path + "~"} { // of a gateway that was killed, once while it opened
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		ln.SetUnlinkOnClose(false)
		_ = ln.Close()
	}
	first, err := openUnix(t, path, listen.Socket{})
	if err != nil {
		t.Fatalf("beside a socket that is left over: %v", err)
	}
	if _, err := openUnix(t, path, listen.Socket{}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second one: %v, want EADDRINUSE", err)
	}
	if _, err := net.Dial("unix", path); err != nil {
		t.Errorf("the first one is harmed: %v", err)
	}
	// Another has taken the place by force: its socket is not removed.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := openUnix(t, path, listen.Socket{}); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket of another was removed: %v", err)
	}
}

// TestNoSocket refuses what cannot be, and says why.
func TestNoSocket(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path, want string
		socket     listen.Socket
	}{
		{file, "is no socket", listen.Socket{}},
		{dir, "is no socket", listen.Socket{}},
		{filepath.Join(dir, "missing", "sock"), "no such file", listen.Socket{}},
		{filepath.Join(dir, "sock"), `no user "nobody-at-all"`, listen.Socket{Owner: "nobody-at-all"}},
		{filepath.Join(dir, "sock"), `no group "nobody-at-all"`, listen.Socket{Group: "nobody-at-all"}},
		{filepath.Join(dir, strings.Repeat("x", 108)), "invalid argument", listen.Socket{}},
	} {
		if _, err := openUnix(t, tt.path, tt.socket); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.path, err, tt.want)
		}
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the file is gone: %v", err)
	}
}
