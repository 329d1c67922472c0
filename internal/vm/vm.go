// Package vm runs tests inside a kernel of their own, a User-Mode Linux with simulated GPIO
// chips, because few build machines have GPIO lines. build.sh builds that kernel, once; run
// runs a program in it.
package vm

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

//go:embed kernel.config
var config []byte

//go:embed build.sh
var build []byte

// Inside tells whether this process runs in the test kernel.
func Inside() bool { return os.Getenv("GATEWAY_VM") != "" }

// Kernel returns where the test kernel is, or would be, and whether it is there.
func Kernel() (path string, ok bool) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", false
	}
	sum := sha256.Sum256(slices.Concat(config, build))
	path = filepath.Join(cache, "gateway-vm", hex.EncodeToString(sum[:])[:16], "linux")
	_, err = os.Stat(path)
	return path, err == nil
}

// Need skips a test that only the test kernel can run, unless it is running there. Run, in
// the same package, runs it.
func Need(t *testing.T) {
	t.Helper()
	if !Inside() {
		t.Skip("needs the test kernel, where TestInKernel runs it")
	}
}

// Run runs the tests of the calling test's package that match pattern inside the test kernel
// and fails if they do. Without a kernel it skips and says how to get one. Inside the kernel
// it has nothing to do.
//
// The kernel cannot run programs with the race detector: Run builds one without it.
func Run(t *testing.T, pattern string) {
	t.Helper()
	if Inside() {
		t.Skip("this is the test kernel")
	}
	if _, ok := Kernel(); !ok {
		t.Skip("no test kernel on this machine: run make vm (it is built once, in 4 to 8 minutes)")
	}
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatalf("where is the module: %v", err)
	}
	program := filepath.Join(t.TempDir(), "kernel.test")
	compile := exec.Command("go", "test", "-c", "-o", program, ".")
	compile.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0", "GOARCH=amd64")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	script := filepath.Join(strings.TrimSpace(string(root)), "internal", "vm", "run")
	args := []string{program, "-test.run", pattern}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	out, err := exec.Command(script, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("in the test kernel: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "no tests to run") {
		t.Fatalf("no test matches %s", pattern)
	}
	t.Logf("%s", out)
}
