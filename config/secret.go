package config

import (
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
)

// A Secret is a password or a token: text in the file, {env: NAME}, or {file: path}. It never
// shows itself when it is printed, logged or encoded.
type Secret struct {
	text   string
	file   string
	inline bool // text stands in the configuration file itself
}

// maxSecret bounds a secret's file.
const maxSecret = 64 << 10

// IsZero tells whether no secret is configured.
func (s Secret) IsZero() bool { return s == Secret{} }

// Reveal returns the secret. A secret in a file is read anew each time, without the newline
// at its end, so that it can be changed without a restart; the file must not be readable by
// everyone.
func (s Secret) Reveal() (string, error) {
	if s.file == "" {
		return s.text, nil
	}
	if err := private(s.file); err != nil {
		return "", err
	}
	f, err := os.Open(s.file)
	if err != nil {
		return "", fmt.Errorf("secret: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("secret: %w", err)
	}
	if len(b) > maxSecret {
		return "", fmt.Errorf("secret: %s is larger than %d bytes", s.file, maxSecret)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), nil
}

// private refuses a file that everyone on the machine may read.
func private(name string) error {
	st, err := os.Stat(name)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("not a regular file")}
	}
	if st.Mode().Perm()&0o004 != 0 {
		return fmt.Errorf("%s can be read by everyone on this machine; run: chmod 640 %s", name, name)
	}
	return nil
}

const hidden = "[secret]"

// String hides the secret.
func (s Secret) String() string { return hidden }

// Format hides the secret from every verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, hidden) }

// LogValue hides the secret from log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides the secret from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }
