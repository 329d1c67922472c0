package crash

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// An edit replaces a piece of the gateway's source for one build. The source itself stays as
// it is: the compiler is told of other files in place of its own.
type edit struct {
	file     string // below the root of the module
	old, new string // old must be there once
}

// root is the folder of the module.
const root = "../.."

// product builds the gateway as it is shipped, once for all tests.
func product(t *testing.T) string {
	t.Helper()
	shipped.Do(func() { shippedAt = build(t, "gateway", nil) })
	if shippedAt == "" {
		t.Fatal("the gateway could not be built")
	}
	return shippedAt
}

var (
	shipped   sync.Once
	shippedAt string
)

// mutant builds a gateway with some edits.
func mutant(t *testing.T, name string, edits ...edit) string {
	t.Helper()
	texts := map[string]string{}
	apply(t, texts, edits...)
	return build(t, name, texts)
}

// apply makes edits in some files, and adds those that are not among them yet.
func apply(t *testing.T, texts map[string]string, edits ...edit) {
	t.Helper()
	for _, e := range edits {
		text, known := texts[e.file]
		if !known {
			b, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			t.Fatalf("%s has %d places like this, not one: bring the test up to date\n%s", e.file, n, e.old)
		}
		texts[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
}

// build builds the gateway with some files, named below the root of the module, in place of those
// that are there, or beside them.
func build(t *testing.T, name string, texts map[string]string) string {
	t.Helper()
	folder, err := os.MkdirTemp(builds, "build-")
	if err != nil {
		t.Fatal(err)
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for file, text := range texts {
		at, err := filepath.Abs(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		other := filepath.Join(folder, strings.ReplaceAll(file, "/", "-"))
		if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[at] = other
	}
	list, err := json.Marshal(overlay)
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "overlay.json"), list, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(builds, name)
	cmd := exec.Command("go", "build", "-overlay", filepath.Join(folder, "overlay.json"), "-o", binary, "gateway/cmd/gateway")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}
