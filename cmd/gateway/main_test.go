package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts below testdata/script run this test binary as the gateway.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gateway": main})
}

// TestScripts types commands as a user does. The folder examples holds the shipped ones.
func TestScripts(t *testing.T) {
	examples := os.DirFS("../../docs/examples")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			return os.CopyFS(env.Getenv("WORK")+"/examples", examples)
		},
	})
}
