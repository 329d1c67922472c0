package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// A running gateway answers "gateway store" at a Unix socket beside its store, which only its own
// user may use. A question is a line, "stat" or "backup", or one about dead letters. The answer is a
// line, "ok" and a number of bytes, and so many bytes; or "error" and why.
const (
	maxQuestion  = 1 << 10 // bytes
	socketSuffix = ".sock"
	socketTime   = 10 * time.Second // for each piece that is read or written
)

// serve answers until ctx ends. Without the socket the gateway does all else.
func (v *vault) serve(ctx context.Context, letters *letters, log *slog.Logger) {
	for {
		if _, err := v.get(); err == nil {
			break
		}
		select { // until then the socket may be another gateway's
		case <-time.After(vaultPeriod):
		case <-ctx.Done():
			return
		}
	}
	path := v.path + socketSuffix
	_ = os.Remove(path) // of a gateway that was killed
	ln, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		log.Warn("no socket for 'gateway store stat' and 'gateway store backup'", "error", err)
	}
	if ln == nil {
		return
	}
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		release := context.AfterFunc(ctx, func() { _ = c.Close() })
		v.answer(ctx, patient{c}, letters) // one after the other: both ask the same disk
		release()
		_ = c.Close()
	}
}

// answer answers one question.
func (v *vault) answer(ctx context.Context, c patient, letters *letters) {
	question, err := bufio.NewReader(io.LimitReader(c, maxQuestion)).ReadString('\n')
	if err != nil {
		return
	}
	begun := false
	begin := func(size int64) error {
		begun = true
		_, err := fmt.Fprintf(c, "ok %d\n", size)
		return err
	}
	whole := func(text []byte, err error) error {
		if err == nil {
			err = begin(int64(len(text)))
		}
		if err == nil {
			_, err = c.Write(text)
		}
		return err
	}
	store, err := v.get()
	switch question = strings.TrimSpace(question); {
	case err != nil:
	case question == "backup":
		err = store.Backup(c, begin)
	case question == "stat":
		err = whole(v.stat(store))
	default:
		text, known, why := letters.answer(ctx, question)
		if !known {
			why = fmt.Errorf("there is no question %q", question)
		}
		err = whole(text, why)
	}
	if err != nil && !begun {
		_, _ = fmt.Fprintln(c, "error", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

// A patient connection gives the other side a while for each piece, and not for ever.
type patient struct{ net.Conn }

func (p patient) Read(b []byte) (int, error) {
	_ = p.SetReadDeadline(time.Now().Add(socketTime))
	return p.Conn.Read(b)
}

func (p patient) Write(b []byte) (n int, err error) {
	const piece = 64 << 10
	for len(b) > 0 && err == nil {
		_ = p.SetWriteDeadline(time.Now().Add(socketTime))
		var k int
		k, err = p.Conn.Write(b[:min(len(b), piece)])
		n, b = n+k, b[k:]
	}
	return n, err
}

// errNotRunning tells that nobody answers for a store.
var errNotRunning = errors.New("no gateway runs on this store")

// ask asks the gateway that runs on a store, and copies its answer.
func ask(store, question string, to io.Writer) error {
	c, err := net.Dial("unix", store+socketSuffix)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotRunning, err)
	}
	defer c.Close()
	p := patient{c}
	if _, err := fmt.Fprintln(p, question); err != nil {
		return err
	}
	r := bufio.NewReader(p)
	line, err := r.ReadString('\n')
	if err != nil {
		return fmt.Errorf("the gateway does not answer: %w", err)
	}
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	size, err := strconv.ParseInt(rest, 10, 64)
	if word != "ok" || err != nil || size < 0 {
		return fmt.Errorf("the gateway says: %s", rest)
	}
	if n, err := io.CopyN(to, r, size); err != nil {
		return fmt.Errorf("the answer ended after %d of %d bytes: %w", n, size, err)
	}
	return nil
}
