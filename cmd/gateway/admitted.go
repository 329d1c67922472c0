package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"gateway/broker/auth/ledger"
)

// Admitted are the files of the data folder that say who may come in, and the nouns for what is in
// them. A backup of a store has them beside it, by its name, a dot, and theirs.
var admitted = []struct{ file, kind string }{
	{devicesFile, "devices"}, {bansFile, "bans"}, {acceptedFile, "accepted clients"},
}

// copyAdmitted copies these files of a data folder beside a backup, where none may be yet. It returns
// what removes the copies again.
func copyAdmitted(data, backup string) (remove func(), err error) {
	var made []string
	remove = func() {
		for _, name := range made {
			_ = os.Remove(name)
		}
	}
	for _, a := range admitted {
		from, to := filepath.Join(data, a.file), backup+"."+a.file
		if _, err := ledger.New[json.RawMessage](from, a.kind).Read(); err != nil {
			return remove, fmt.Errorf("back up the %s: %w", a.kind, err)
		}
		b, err := os.ReadFile(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			made = append(made, to)
			err = writeNew(to, b)
		}
		if err != nil {
			if errors.Is(err, fs.ErrExist) {
				made = made[:len(made)-1] // it is another's
				err = fmt.Errorf("%s is there already: remove it, or give the backup another name", to)
			}
			return remove, fmt.Errorf("back up the %s: %w", a.kind, err)
		}
	}
	return remove, nil
}

// writeNew writes a file that is not there yet, and returns when its content is on disk.
func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// A pending restores one of these files.
type pending struct {
	kind, path string
	records    []json.RawMessage
}

// readAdmitted reads the copies beside a backup, as far as there are some, and changes nothing.
func readAdmitted(backup, data string) (all []pending, err error) {
	for _, a := range admitted {
		from := backup + "." + a.file
		if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		records, err := ledger.New[json.RawMessage](from, a.kind).Read()
		if err != nil {
			return nil, fmt.Errorf("restore the %s: %w", a.kind, err)
		}
		all = append(all, pending{a.kind, filepath.Join(data, a.file), records})
	}
	return all, nil
}

// restore puts one file in its place, and says where what was there is now.
func (p *pending) restore(w io.Writer) error {
	was := ""
	if _, err := os.Lstat(p.path); err == nil {
		aside := p.path + ".replaced-" + time.Now().UTC().Format("20060102T150405.000Z")
		if err := os.Link(p.path, aside); err != nil {
			return err
		}
		was = "; what was there is now " + aside
	}
	if err := ledger.New[json.RawMessage](p.path, p.kind).Replace(p.records); err != nil {
		return fmt.Errorf("restore the %s: %w", p.kind, err)
	}
	_, err := fmt.Fprintf(w, "%s: %d %s restored%s\n", p.path, len(p.records), p.kind, was)
	return err
}
