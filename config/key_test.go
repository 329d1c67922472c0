package config

import (
	"crypto/tls"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// openssl runs it in a folder, or skips the test.
func openssl(t *testing.T, dir string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("needs openssl (apt-get install openssl)")
	}
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("openssl %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// Keys that openssl encrypts are opened with their password, and with no other.
func TestEncryptedKeys(t *testing.T) {
	dir := t.TempDir()
	openssl(t, dir, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-keyout", "plain.key", "-out", "plain.crt", "-subj", "/CN=site")
	cert, err := os.ReadFile(filepath.Join(dir, "plain.crt"))
	if err != nil {
		t.Fatal(err)
	}
	right, wrong := Secret{text: "correct horse"}, Secret{text: "wrong"}
	for name, flags := range map[string][]string{
		"aes-256 sha256": {"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256"},
		"aes-192 sha512": {"-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA512"},
		"aes-128 sha1":   {"-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1"},
	} {
		file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		openssl(t, dir, append([]string{"pkcs8", "-topk8", "-in", "plain.key", "-out", file, "-passout", "pass:correct horse"}, flags...)...)
		key, err := ReadKey(file, right)
		if err == nil {
			_, err = tls.X509KeyPair(cert, key)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if key, err := ReadKey(file, wrong); err == nil { // a wrong padding may look right, a wrong key never
			if _, err := tls.X509KeyPair(cert, key); err == nil {
				t.Errorf("%s: a wrong password opens it", name)
			}
		} else if !errors.Is(err, errKeyPassword) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := ReadKey(file, Secret{}); err == nil || !strings.Contains(err.Error(), "give its password as key_password") {
			t.Errorf("%s without a password: %v", name, err)
		}
	}
	old := filepath.Join(dir, "old")
	openssl(t, dir, "pkcs8", "-topk8", "-in", "plain.key", "-out", old, "-passout", "pass:x", "-v1", "PBE-SHA1-3DES")
	if _, err := ReadKey(old, right); !errors.Is(err, errKeyFormat) {
		t.Errorf("an encryption that is not known: %v", err)
	}
	if key, err := ReadKey(filepath.Join(dir, "plain.key"), Secret{}); err != nil || !strings.Contains(string(key), "PRIVATE KEY") {
		t.Errorf("a key that is not encrypted: %v", err)
	}
}
