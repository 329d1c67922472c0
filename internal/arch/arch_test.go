package arch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// TestHouse holds the gateway's own source to the plan.
func TestHouse(t *testing.T) {
	faults, err := Check(os.DirFS("../.."), House)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		t.Error(f)
	}
}

// TestCheck shows that the checker can fail: each archive in testdata is a small tree, and its
// comment, the text before the first file, is what must be found wrong with it.
func TestCheck(t *testing.T) {
	plan := Plan{
		Module: "hut",
		Rooms: []Room{
			{3, "cmd/hut", "*", false},
			{2, "broker", "store topic", false},
			{2, "sensors/*", "sensors", false},
			{1, "sensors", "", false},
			{1, "store", "", false},
			{1, "topic", "", true},
			{1, "util", "", false},
			{0, "internal/*", "*", false},
		},
		Owners: []Owner{
			{"example.com/bolt", "store"},
			{"example.com/bus", "sensors/*"},
			{"example.com/std", "*"},
		},
		NoNouns:       "util common",
		FileLines:     20,
		TypeMethods:   2,
		FuncLines:     5,
		LongFuncsPerc: 50,
	}
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("testdata/*.txtar: %d archives, err = %v", len(archives), err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			want, tree := unpack(string(archive))
			faults, err := Check(tree, plan)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(faults, "\n"); got != want {
				t.Errorf("found:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// unpack splits an archive in the txtar format into its comment and its files. Each file begins
// with a line "-- name --".
func unpack(archive string) (comment string, tree fstest.MapFS) {
	tree = fstest.MapFS{}
	comment, files, _ := strings.Cut("\n"+archive, "\n-- ")
	for file := range strings.SplitSeq(files, "\n-- ") {
		name, text, _ := strings.Cut(file, " --\n")
		tree[name] = &fstest.MapFile{Data: []byte(strings.TrimSuffix(text, "\n") + "\n")}
	}
	return strings.TrimSpace(comment), tree
}

// TestPlanPointsDown shows that a plan whose own arrows point up is refused.
func TestPlanPointsDown(t *testing.T) {
	plan := Plan{Rooms: []Room{{1, "cellar", "attic nowhere", false}, {2, "attic", "cellar", false}}}
	faults, err := Check(os.DirFS(t.TempDir()), plan)
	if err != nil {
		t.Fatal(err)
	}
	want := "plan: cellar sees nowhere, which is no room\nplan: the arrow cellar -> attic points up"
	if got := strings.Join(faults, "\n"); got != want {
		t.Errorf("found:\n%s\nwant:\n%s", got, want)
	}
}
