package ca

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// write stores a certificate and its key, durably, both or none. It overwrites nothing.
func (f Files) write(cert, key []byte) error {
	for _, name := range []string{f.Cert, f.Key} {
		if _, err := os.Lstat(name); err == nil {
			return fmt.Errorf("%w: %s; nothing was changed: move it away, or choose another name", fs.ErrExist, name)
		}
	}
	if err := create(f.Key, 0o600, &pem.Block{Type: "PRIVATE KEY", Bytes: key}); err != nil {
		return err
	}
	if err := create(f.Cert, 0o644, &pem.Block{Type: "CERTIFICATE", Bytes: cert}); err != nil {
		return errors.Join(err, os.Remove(f.Key))
	}
	return syncFolder(filepath.Dir(f.Cert))
}

// create makes a file that is complete from the moment that it has its name. The link, unlike
// a rename, never replaces another.
func create(name string, mode fs.FileMode, block *pem.Block) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(name), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, os.Remove(temp.Name())) }()
	err = pem.Encode(temp, block)
	if err == nil {
		err = temp.Chmod(mode)
	}
	if err == nil {
		err = temp.Sync()
	}
	err = errors.Join(err, temp.Close())
	if err == nil {
		err = os.Link(temp.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return errors.Join(d.Sync(), d.Close())
}
