package passwd

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha512"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
)

// What is hashed for a user that there is not costs what some user's password costs, and is the same
// for the same name. Nothing fits it.
func TestInvent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwd")
	var costs []cost
	add := func(k Kind, iterations int) {
		t.Helper()
		if err := Set(path, fmt.Sprint(k, iterations), []byte("x"), k, iterations); err != nil {
			t.Fatal(err)
		}
	}
	add(SHA512, 0)
	add(PBKDF2, 7)
	add(PBKDF2, 8)
	u, err := Open(path, NewPool(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range u.file.All() {
		costs = append(costs, h.cost)
	}
	seen := make(map[cost]bool)
	for i := range 200 {
		h := u.invent(fmt.Sprint("user ", i))
		if !slices.Contains(costs, h.cost) || len(h.salt) != h.saltSize || h != u.invent(fmt.Sprint("user ", i)) || h.fits(nil) {
			t.Fatalf("%+v", h)
		}
		seen[h.cost] = true
	}
	if len(seen) != len(costs) {
		t.Errorf("%d costs of %d", len(seen), len(costs))
	}
}

func TestStretch(t *testing.T) {
	for iterations := range 200 {
		password, salt := bytes.Repeat([]byte("p"), iterations), bytes.Repeat([]byte("s"), iterations%40)
		size := 16 + iterations%241
		want, err := pbkdf2.Key(sha512.New, string(password), salt, iterations+1, size)
		if err != nil {
			t.Fatal(err)
		}
		if got := stretch(password, salt, iterations+1, size); !bytes.Equal(got, want) {
			t.Fatalf("%d iterations, %d bytes: %x, want %x", iterations+1, size, got, want)
		}
	}
}
