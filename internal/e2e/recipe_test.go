package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestRecipe does what docs/security.md says under "Five minutes", word by word, in an empty folder, with
// other ports: from nothing to mutual TLS with one device.
func TestRecipe(t *testing.T) {
	program(t, "mosquitto_pub", "mosquitto-clients")
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, recipe, _ := strings.Cut(string(text), "\n## Five minutes")
	recipe, board, found := strings.Cut(recipe, "\nOn a board")
	if !found || !strings.Contains(board, "install ") {
		t.Fatal("the recipe has no end")
	}
	dir, path := t.TempDir(), t.TempDir()
	if err := os.Symlink(binary, filepath.Join(path, "gateway")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", path+":"+os.Getenv("PATH"))
	_, plain, _ := net.SplitHostPort(freeAddress(t))
	_, secure, _ := net.SplitHostPort(freeAddress(t))
	recipe = strings.NewReplacer(":1883", ":"+plain, ":8883", ":"+secure, "-p 8883", "-p "+secure).Replace(recipe)

	shell := func(line string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "bash", "-c", line)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	log := &output{}
	showOnFailure(t, "gateway", log)
	var said strings.Builder
	var publish string
	for _, block := range regexp.MustCompile(`(?m)(?:^ {4}.*\n)+`).FindAllString(recipe, -1) {
		block = regexp.MustCompile(`(?m)^ {4}`).ReplaceAllString(block, "")
		if strings.HasPrefix(block, "gateway: ") {
			if err := os.WriteFile(filepath.Join(dir, "gateway.yaml"), []byte(block), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		for line := range strings.Lines(block) {
			line = strings.TrimSpace(line)
			if background, ok := strings.CutSuffix(line, " &"); ok {
				launch(t, "gateway", log, "bash", "-c", "cd "+dir+" && exec "+background)
				eventually(t, 10*time.Second, "the gateway runs", func() bool { return len(log.lines(running)) > 0 })
				continue
			}
			out, err := shell(line)
			if err != nil {
				t.Fatalf("%s: %v\n%s", line, err, out)
			}
			said.WriteString(out)
			if strings.HasPrefix(line, "mosquitto_pub ") {
				publish = line
			}
		}
	}
	for _, want := range []string{"gateway.yaml: ok", "allowed: gateway.yaml:", "devices/thermometer-3/air 21.5\n", "Wrote "} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("nothing says %q:\n%s", want, said.String())
		}
	}
	eventually(t, 5*time.Second, "the stolen device stays outside", func() bool {
		_, err := shell(publish)
		return err != nil
	})
	if len(log.lines("thermometer-3", "is revoked")) == 0 {
		t.Error("the log does not say why")
	}
}
