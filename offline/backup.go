package offline

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Backup writes a store as it is at one moment, while it goes on. begin is called first, with the
// number of bytes. A writer that is slow makes the store's file larger: what is in the backup is not
// free before it ends.
func (s *Store) Backup(w io.Writer, begin func(size int64) error) error {
	err := s.file.view(func(tx *bolt.Tx) error {
		if err := begin(tx.Size()); err != nil {
			return err
		}
		_, err := tx.WriteTo(w)
		return err
	})
	if err != nil {
		return fmt.Errorf("back up the store: %w", err)
	}
	return nil
}

// Save makes the file of a backup at path, which must not be there yet, from what write writes. It is
// read in full, and is at path only if it is sound and on disk.
func Save(path string, write func(io.Writer) error) error { return saveLike("", path, write) }

// saveLike is Save for a file that is to have the owner of another, unless that has no name.
func saveLike(owner, path string, write func(io.Writer) error) (err error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there already", path)
	}
	fresh := path + ".part"
	if err := removeIf(fresh); err != nil {
		return err
	}
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if owner != "" {
		ownLike(f, owner)
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = verify(fresh)
	}
	if err == nil {
		err = rename(fresh, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("save %s: %w", path, err), removeIf(fresh))
	}
	return nil
}

// Copy makes a backup of a store that no gateway has (ErrInUse).
func Copy(from, to string) error {
	if _, err := os.Stat(from); err != nil {
		return err
	}
	return exclusive(from, func(from string) error {
		return Save(to, func(w io.Writer) error {
			f, err := os.Open(from)
			if err != nil {
				return err
			}
			_, err = io.Copy(w, f)
			return errors.Join(err, f.Close())
		})
	})
}

// RestoreBackup puts a backup in the place of a store that no gateway has (ErrInUse). What was there
// is renamed to aside, if anything was. Clients have gone on since the backup: packet identifiers that it
// has of incoming messages mean others by now, and are forgotten; outgoing ones are freed before they
// are used.
func RestoreBackup(backup, path string) (aside string, err error) {
	if err := verify(backup); err != nil {
		return "", fmt.Errorf("restore %s: %w", backup, err)
	}
	err = exclusive(path, func(path string) error {
		fresh := path + compactSuffix
		if err := removeIf(fresh); err != nil {
			return err
		}
		err := saveLike(filepath.Dir(path), fresh, func(w io.Writer) error {
			f, err := os.Open(backup)
			if err != nil {
				return err
			}
			_, err = io.Copy(w, f)
			return errors.Join(err, f.Close())
		})
		if err == nil {
			err = estrange(fresh)
		}
		if err != nil {
			return errors.Join(err, removeIf(fresh))
		}
		if err := removeIf(path + ".new"); err != nil { // of a start that was cut short
			return err
		}
		if _, err := os.Lstat(path); err == nil {
			aside = freeName(path + ".replaced-" + time.Now().UTC().Format("20060102T150405Z"))
			if err := os.Link(path, aside); err != nil {
				return err
			}
			if err := syncFolder(filepath.Dir(path)); err != nil {
				return err
			}
		}
		return rename(fresh, path)
	})
	if err != nil {
		return "", fmt.Errorf("restore %s: %w", path, err)
	}
	return aside, nil
}
