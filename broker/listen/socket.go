package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// keepAlive finds peers that vanished without a word, for clients whose MQTT keep alive is 0.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}

// open opens an address.
func open(ctx context.Context, address string, s Socket) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return openUnix(ctx, path, s)
	}
	c := net.ListenConfig{KeepAliveConfig: keepAlive}
	ln, err := c.Listen(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use: another broker runs here, or another listener has the same port: %w", address, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s may not be used: ports below 1024 need the capability CAP_NET_BIND_SERVICE: %w", address, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s is no address of this machine: %w", address, err)
	}
	return ln, err
}

// A Socket says who may use a Unix socket. Clients need the right to write.
type Socket struct {
	Owner, Group string      // names or numbers; empty: those of the process
	Mode         fs.FileMode // 0: 0660
}

// A unixListener is a Unix socket that has its place in the file system.
type unixListener struct {
	*net.UnixListener
	path string
	made fs.FileInfo // as it was put there
}

// openUnix opens a socket. It is made beside its place and moved there when its owner and mode are
// right. One that is left from before makes way, unless somebody listens on it.
func openUnix(ctx context.Context, path string, s Socket) (ln net.Listener, err error) {
	uid, gid, err := s.ids()
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	defer unlock()
	draft := path + "~"
	for _, name := range []string{path, draft} {
		if err := vacant(ctx, name); err != nil {
			return nil, err
		}
	}
	var c net.ListenConfig
	opened, err := c.Listen(ctx, "unix", draft)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	u := &unixListener{UnixListener: opened.(*net.UnixListener), path: path}
	u.SetUnlinkOnClose(false)
	mode := s.Mode
	if mode == 0 {
		mode = 0o660
	}
	err = os.Chmod(draft, mode)
	if err == nil && (uid >= 0 || gid >= 0) {
		err = os.Chown(draft, uid, gid)
	}
	if err == nil {
		u.made, err = os.Lstat(draft)
	}
	if err == nil {
		err = os.Rename(draft, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s: %w", path, err), u.UnixListener.Close(), os.Remove(draft))
	}
	return u, nil
}

// ids looks up owner and group; -1 leaves them as they are.
func (s Socket) ids() (uid, gid int, err error) {
	uid, gid = -1, -1
	if s.Owner != "" {
		u, err := user.Lookup(s.Owner)
		if err != nil {
			u, err = user.LookupId(s.Owner)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("there is no user %q on this machine", s.Owner)
		}
		if uid, err = strconv.Atoi(u.Uid); err != nil {
			return 0, 0, fmt.Errorf("user %q has no number: %w", s.Owner, err)
		}
	}
	if s.Group != "" {
		g, err := user.LookupGroup(s.Group)
		if err != nil {
			g, err = user.LookupGroupId(s.Group)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("there is no group %q on this machine", s.Group)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return 0, 0, fmt.Errorf("group %q has no number: %w", s.Group, err)
		}
	}
	return uid, gid, nil
}

// lockFolder keeps two gateways from both finding that a socket is left over.
func lockFolder(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another program opens a socket in %s at this moment: %w", dir, err), d.Close())
	}
	return func() { _ = d.Close() }, nil
}

// vacant removes a socket on which nobody listens. Nothing else is ever removed.
func vacant(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and is no socket; move it away, or choose another path", path)
	}
	d := net.Dialer{Timeout: time.Second}
	nc, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	if err == nil {
		err = errors.Join(syscall.EADDRINUSE, nc.Close())
	}
	return fmt.Errorf("%s is in use: another broker listens there: %w", path, err)
}

// Accept returns the next connection.
func (u *unixListener) Accept() (net.Conn, error) {
	nc, err := u.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return &unixConn{nc, u.Addr()}, nil
}

// Addr returns the place of the socket.
func (u *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: u.path, Net: "unix"} }

// Close closes the socket and removes it, unless another has taken its place.
func (u *unixListener) Close() error {
	err := u.UnixListener.Close()
	if now, statErr := os.Lstat(u.path); err == nil && statErr == nil && os.SameFile(now, u.made) {
		err = os.Remove(u.path)
	}
	return err
}

// A unixConn is a connection whose client has the name of the socket: it has none itself.
type unixConn struct {
	*net.UnixConn
	remote net.Addr
}

// RemoteAddr returns the socket's own address.
func (u *unixConn) RemoteAddr() net.Addr { return u.remote }
