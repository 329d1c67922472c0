package conformance

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/conformance.md")

// root is the folder of the module, document the page that is made from the lists.
const (
	root     = "../.."
	document = root + "/docs/conformance.md"
)

// numbers are the statements that each standard has, by section: how many, or from which to which
// where the numbering has a gap. Each standard lists them in its appendix B; those of chapter 7
// stand in the text only. In 5.0 nothing was ever called 2.2.1-1. Where a text has a misprint, as
// MQTT-3-8.3-4, MQTT-3.3.1.-1 and MQTT-6.0.0.1 in 3.1.1 and MQTT-4.2-1 in 5.0, the usual form is
// meant.
var numbers = map[string]string{
	"3.1.1": `1.5.3:3 2.2.2:2 2.3.1:7
		3.1.0:2 3.1.2:24 3.1.3:11 3.1.4:5 3.2.0:1 3.2.2:6 3.3.1:12 3.3.2:3 3.3.4:1 3.3.5:2 3.6.1:1
		3.8.1:1 3.8.3:4 3.8.4:6 3.9.3:2 3.10.1:1 3.10.3:2 3.10.4:6 3.12.4:1 3.14.1:1 3.14.4:3
		4.1.0:2 4.3.1:1 4.3.2:2 4.3.3:2 4.4.0:1 4.5.0:2 4.6.0:6 4.7.1:3 4.7.2:1 4.7.3:4 4.8.0:2
		6.0.0:4 7.0.0:2 7.1.1:1 7.1.2:1`,
	"5.0": `1.5.4:3 1.5.5:1 1.5.7:1 2.1.3:1 2.2.1:2-6 2.2.2:1
		3.1.0:2 3.1.2:30 3.1.3:12 3.1.4:6 3.2.0:2 3.2.2:22 3.3.1:13 3.3.2:20 3.3.4:10
		3.4.2:3 3.5.2:3 3.6.1:1 3.6.2:3 3.7.2:3 3.8.1:1 3.8.3:5 3.8.4:8 3.9.2:2 3.9.3:2
		3.10.1:1 3.10.3:2 3.10.4:6 3.11.2:2 3.11.3:2 3.12.4:1 3.14.0:1 3.14.1:1 3.14.2:4 3.14.4:3
		3.15.1:1 3.15.2:3
		4.1.0:2 4.2.0:1 4.3.1:1 4.3.2:5 4.3.3:13 4.4.0:2 4.5.0:2 4.6.0:6 4.7.0:1 4.7.1:2 4.7.2:1
		4.7.3:4 4.8.2:6 4.9.0:3 4.12.0:7 4.12.1:2 4.13.1:1 4.13.2:1
		6.0.0:4 7.0.0:2 7.1.1:1 7.1.2:1`,
}

// ids returns the statements of a standard, in their order.
func ids(t *testing.T, version string) (all []string) {
	for section := range strings.FieldsSeq(numbers[version]) {
		name, span, _ := strings.Cut(section, ":")
		from, to, gap := strings.Cut(span, "-")
		if !gap {
			from, to = "1", span
		}
		first, err := strconv.Atoi(from)
		if err != nil {
			t.Fatal(err)
		}
		last, err := strconv.Atoi(to)
		if err != nil {
			t.Fatal(err)
		}
		for n := first; n <= last; n++ {
			all = append(all, fmt.Sprintf("MQTT-%s-%d", name, n))
		}
	}
	return all
}

// Every statement is there, once, in its place, and nothing else.
func TestEveryStatement(t *testing.T) {
	t.Parallel()
	standards, err := Standards()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range standards {
		var got []string
		for _, c := range s.Chapters {
			for _, st := range c.Statements {
				got = append(got, st.ID)
				if !strings.HasPrefix(st.ID, "MQTT-"+c.Title[:1]+".") {
					t.Errorf("MQTT %s: %s stands in chapter %s", s.Version, st.ID, c.Title)
				}
			}
		}
		want := ids(t, s.Version)
		if !slices.Equal(got, want) {
			t.Errorf("MQTT %s: of the statements of the standard are missing %v, unknown or twice %v; want its order",
				s.Version, without(want, got), without(got, want))
		}
	}
}

// without returns what is in a more often than in b.
func without(a, b []string) (rest []string) {
	b = slices.Clone(b)
	for _, s := range a {
		if i := slices.Index(b, s); i >= 0 {
			b = slices.Delete(b, i, i+1)
		} else {
			rest = append(rest, s)
		}
	}
	return rest
}

// Every test that is named exists, wherever it is.
func TestEveryProof(t *testing.T) {
	t.Parallel()
	standards, err := Standards()
	if err != nil {
		t.Fatal(err)
	}
	tests := make(map[string]map[string]bool)
	for _, s := range standards {
		for _, c := range s.Chapters {
			for _, st := range c.Statements {
				for _, test := range st.Tests {
					folder, name, elsewhere := strings.Cut(test, ".")
					if !elsewhere {
						folder, name = "internal/conformance", test
					}
					if tests[folder] == nil {
						tests[folder] = testsIn(t, folder)
					}
					if !tests[folder][name] {
						t.Errorf("MQTT %s: %s is proven by %s, which does not exist", s.Version, st.ID, test)
					}
				}
			}
		}
	}
	for test := range differs {
		if name, _, _ := strings.Cut(test, "/"); !tests["internal/conformance"][name] {
			t.Errorf("mosquitto is known to differ in %s, which does not exist", test)
		}
	}
}

// testsIn returns the names of the tests in a folder of the module.
func testsIn(t *testing.T, folder string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}

// The lists refuse lines that prove nothing.
func TestParse(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"## 1 A\nMQTT-1.0.0-1 | what | |",
		"## 1 A\nMQTT-1.0.0-1 | what | ",
		"## 1 A\nMQTT-1.0.0-1 | what",
		"## 1 A\nMQTT-1.0.0-1 | what | Test | why | more",
		"MQTT-1.0.0-1 | what | Test",
	} {
		if s, err := parse("0", bad); err == nil {
			t.Errorf("%q was read as %+v", bad, s)
		}
	}
}

// The page of the documentation is the one that the lists make.
func TestDocument(t *testing.T) {
	t.Parallel()
	want, err := Document()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(document, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/conformance.md is out of date: run go generate ./internal/conformance")
	}
}
