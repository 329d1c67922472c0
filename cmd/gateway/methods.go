package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/auth/roster"
	"gateway/broker/auth/scram"
	"gateway/broker/auth/totp"
	"gateway/broker/packet"
	"gateway/broker/watch"
	"gateway/config"
)

// methods are those of enhanced authentication, with their users.
type methods struct {
	c       *config.Config
	now     func() time.Time
	log     *slog.Logger
	users   *scram.Users  // nil: none are configured
	secrets *totp.Secrets // nil: none are configured
}

// lookEvery is the time between two looks at the files of users where the kernel does not tell of
// changes.
const lookEvery = 500 * time.Millisecond

// openMethods reads the files of users. One that cannot be used has nobody until it can.
func openMethods(c *config.Config, now func() time.Time, log *slog.Logger) *methods {
	m := &methods{c: c, now: now, log: log}
	const remedy = "mend the file: it is looked at again when it changes"
	var err error
	if file := c.Auth.ScramFile; file != "" {
		if m.users, err = scram.Open(file, m.secret(filepath.Join(c.Gateway.Data, "scram.secret"))); err != nil {
			log.Error("nobody can log in by SCRAM", "error", err, "remedy", remedy)
		}
	}
	if file := c.Auth.TOTPFile; file != "" {
		if m.secrets, err = totp.Open(file); err != nil {
			log.Error("nobody can log in with one-time codes", "error", err, "remedy", remedy)
		}
	}
	return m
}

// secret reads what makes the salts of users that do not exist, or makes it. Without a disk it is
// another one after each start.
func (m *methods) secret(path string) []byte {
	const size = 32
	b, err := os.ReadFile(path)
	if err == nil && len(b) == size {
		return b
	}
	fresh := make([]byte, size)
	_, _ = rand.Read(fresh)                           // never fails
	if err == nil || errors.Is(err, fs.ErrNotExist) { // one of another size is of nobody's making
		err = roster.Replace(path, fresh)
	}
	if err != nil {
		m.log.Warn("after the next start it can be told which users of SCRAM do not exist", "error", err, "remedy", "let the gateway write "+path)
	}
	return fresh
}

// of returns the methods of a listener. Of a method with two factors, the first is a password of the
// password file, whether the listener takes that alone or not.
func (m *methods) of(l config.Listener, passwords auth.Authenticator) (all []auth.Mechanism) {
	for _, name := range l.Methods {
		if name == totp.Name {
			all = append(all, &totp.Mechanism{Password: passwords, Secrets: m.secrets})
		} else if h, err := scram.ParseHash(name); err == nil { // the configuration knows no others
			all = append(all, &scram.Mechanism{Hash: h, Users: m.users, Now: m.now})
		}
	}
	return all
}

// A roll is a file of users, or of what they may do.
type roll struct {
	path string
	roll interface {
		Look() (gone []string, changed bool, err error)
	}
	concerns func(*auth.Client) bool // of the clients with the name of one who is gone, those that came by it
}

// watch follows changes of the files, and of those given, until ctx ends. It disconnects clients whose
// users are gone or have changed.
func (m *methods) watch(ctx context.Context, server *broker.Server, rolls []roll) {
	if m.users != nil {
		rolls = append(rolls, roll{m.c.Auth.ScramFile, m.users, func(c *auth.Client) bool { return c.By == scram.By }})
	}
	if m.secrets != nil {
		// The password's authenticator let it in.
		rolls = append(rolls, roll{m.c.Auth.TOTPFile, m.secrets, func(*auth.Client) bool { return true }})
	}
	if len(rolls) == 0 {
		return
	}
	var files []string
	for _, r := range rolls {
		files = append(files, r.path)
	}
	watch.Files(ctx, lookEvery, files, func() (again bool) {
		for _, r := range rolls {
			m.look(server, r)
		}
		return false
	})
}

// look puts a file into force that has changed.
func (m *methods) look(server *broker.Server, r roll) {
	gone, changed, err := r.roll.Look()
	if err != nil {
		m.log.Error("a changed file of users or rules cannot be used: what was read before stays in force", "error", err)
	}
	if !changed {
		return
	}
	n := 0
	if len(gone) > 0 {
		n = server.Disconnect(func(c *auth.Client) bool {
			_, found := slices.BinarySearch(gone, c.User)
			return found && r.concerns(c)
		}, packet.NotAuthorized)
	}
	m.log.Info("a file of users or rules has changed and is in force", "users_gone_or_changed", len(gone), "disconnected", n)
}
