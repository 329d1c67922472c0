// Package arch holds the house plan of the gateway, which package may import which, and checks
// the source against it. It reads product files only: a test may import what it likes.
//
// Files are parsed whatever their build constraints say, so that an arrow that exists on one
// platform only is seen on every other.
package arch

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A Plan says what the source of one module must look like.
type Plan struct {
	Module  string
	Rooms   []Room
	Owners  []Owner
	NoNouns string // names no folder or package may have, separated by spaces

	FileLines     int // longest file
	TypeMethods   int // most methods of one type
	FuncLines     int // a function beyond this is long
	LongFuncsPerc int // per cent of all functions that may be long
}

// A Room is one package, or with a path that ends in "/*" every package below a folder.
type Room struct {
	Floor int    // 0 is for tests only
	Path  string // relative to the module
	Sees  string // rooms it may import, separated by spaces; "*" is every room
	Pure  bool   // it does no input or output: neither net nor os
}

// An Owner is the one room that may import a module from elsewhere; "*" is every room.
type Owner struct {
	Import string // the module's path, without its major version
	Room   string
}

// A checker collects what is wrong with one tree.
type checker struct {
	plan    Plan
	files   *token.FileSet
	faults  []string
	methods map[string]int // "folder.Type" -> methods
	long    []function     // functions beyond plan.FuncLines
	funcs   int
}

type function struct {
	place string
	lines int
}

// Check compares a source tree with a plan and returns what is wrong, one sentence each, sorted.
// Folders named testdata, folders whose name begins with a dot or an underscore, and nested
// modules are not part of the tree.
func Check(tree fs.FS, plan Plan) ([]string, error) {
	c := &checker{plan: plan, files: token.NewFileSet(), methods: map[string]int{}}
	c.checkPlan()
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return c.enter(tree, name)
		case strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go"):
			return c.checkFile(tree, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("arch: %w", err)
	}
	c.checkMethods()
	c.checkLongFuncs()
	slices.Sort(c.faults)
	return c.faults, nil
}

func (c *checker) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Sprintf(format, args...))
}

// checkPlan holds the plan to its own rule: arrows point down, to rooms that are in it.
func (c *checker) checkPlan() {
	for _, r := range c.plan.Rooms {
		for seen := range strings.FieldsSeq(r.Sees) {
			if seen == "*" {
				continue
			}
			s, ok := c.room(seen)
			if !ok {
				c.fault("plan: %s sees %s, which is no room", r.Path, seen)
			} else if s.Floor > r.Floor && r.Floor > 0 {
				c.fault("plan: the arrow %s -> %s points up", r.Path, seen)
			}
		}
	}
}

// enter decides whether a folder belongs to the tree, and looks at its name.
func (c *checker) enter(tree fs.FS, name string) error {
	if name == "." {
		return nil
	}
	base := path.Base(name)
	if base == "testdata" || base == "node_modules" || base[0] == '.' || base[0] == '_' {
		return fs.SkipDir
	}
	if _, err := fs.Stat(tree, path.Join(name, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

// room finds the room of a package: its own row, else the nearest row that ends in "/*".
func (c *checker) room(pkg string) (Room, bool) {
	for p, suffix := pkg, ""; p != "."; p, suffix = path.Dir(p), "/*" {
		if i := slices.IndexFunc(c.plan.Rooms, func(r Room) bool { return r.Path == p+suffix }); i >= 0 {
			return c.plan.Rooms[i], true
		}
	}
	return Room{}, false
}

func (c *checker) checkFile(tree fs.FS, name string) error {
	src, err := fs.ReadFile(tree, name)
	if err != nil {
		return err
	}
	f, err := parser.ParseFile(c.files, name, src, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if n := c.files.File(f.Pos()).LineCount(); n > c.plan.FileLines {
		c.fault("%s: %d lines, more than %d: it holds two things, or one that is not simple yet", name, n, c.plan.FileLines)
	}
	folder := path.Dir(name)
	for _, noun := range append(strings.Split(folder, "/"), f.Name.Name) {
		if slices.Contains(strings.Fields(c.plan.NoNouns), noun) {
			c.fault("%s: %q says where the code was put, not what it is", name, noun)
			break
		}
	}
	room, ok := c.room(folder)
	if !ok {
		c.fault("%s: package %s is not in the house plan", name, folder)
		return nil
	}
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
		}
		c.checkImport(name, folder, room, imported)
	}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			c.checkFunc(name, folder, fn)
		}
	}
	return nil
}

func (c *checker) checkImport(file, folder string, room Room, imported string) {
	inside, ours := strings.CutPrefix(imported, c.plan.Module+"/")
	first, _, _ := strings.Cut(imported, "/")
	switch {
	case imported == "C":
		c.fault("%s: cgo: the gateway is built without a C compiler", file)
	case ours:
		c.checkArrow(file, folder, room, inside)
	case strings.Contains(first, "."):
		c.checkOwner(file, folder, room, imported)
	case room.Pure && (first == "net" || first == "os"):
		c.fault("%s: %s does no input or output, but imports %q", file, folder, imported)
	}
}

// checkArrow checks an import within the module.
func (c *checker) checkArrow(file, folder string, from Room, imported string) {
	to, ok := c.room(imported)
	sees := strings.Fields(from.Sees)
	switch {
	case !ok:
		c.fault("%s: imports %s, which is not in the house plan", file, imported)
	case to.Floor == 0 && from.Floor > 0:
		c.fault("%s: imports %s, which is for tests", file, imported)
	case slices.Contains(sees, "*") || slices.Contains(sees, imported) || slices.Contains(sees, to.Path):
	default:
		c.fault("%s: the arrow %s -> %s is not in the house plan", file, folder, imported)
	}
}

// checkOwner checks an import from another module.
func (c *checker) checkOwner(file, folder string, room Room, imported string) {
	i := slices.IndexFunc(c.plan.Owners, func(o Owner) bool {
		return imported == o.Import || strings.HasPrefix(imported, o.Import+"/")
	})
	switch {
	case i < 0:
		c.fault("%s: %s has no owner in the house plan", file, imported)
	case c.plan.Owners[i].Room != "*" && c.plan.Owners[i].Room != folder && c.plan.Owners[i].Room != room.Path:
		c.fault("%s: %s belongs to %s", file, imported, c.plan.Owners[i].Room)
	}
}

func (c *checker) checkFunc(file, folder string, fn *ast.FuncDecl) {
	start, end := c.files.Position(fn.Pos()), c.files.Position(fn.End())
	place := fmt.Sprintf("%s:%d: func %s", file, start.Line, fn.Name.Name)
	if fn.Recv == nil && fn.Name.Name == "init" {
		c.fault("%s: nothing happens by importing: let the caller ask for it", place)
	}
	if fn.Recv != nil {
		c.methods[folder+"."+receiver(fn.Recv.List[0].Type)]++
	}
	c.funcs++
	if n := end.Line - start.Line + 1; n > c.plan.FuncLines {
		c.long = append(c.long, function{place, n})
	}
}

// receiver returns the type name of a method's receiver.
func receiver(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StarExpr:
		return receiver(t.X)
	case *ast.ParenExpr:
		return receiver(t.X)
	case *ast.IndexExpr:
		return receiver(t.X)
	case *ast.IndexListExpr:
		return receiver(t.X)
	case *ast.Ident:
		return t.Name
	}
	return "?"
}

func (c *checker) checkMethods() {
	for name, n := range c.methods {
		if n > c.plan.TypeMethods {
			c.fault("%s: %d methods, more than %d: it wants a second cut", name, n, c.plan.TypeMethods)
		}
	}
}

func (c *checker) checkLongFuncs() {
	if len(c.long)*100 < c.plan.LongFuncsPerc*c.funcs || len(c.long) == 0 {
		return
	}
	slices.SortFunc(c.long, func(a, b function) int { return cmp.Compare(b.lines, a.lines) })
	c.fault("%d of %d functions are longer than %d lines, not below %d %%; the longest, %s, has %d",
		len(c.long), c.funcs, c.plan.FuncLines, c.plan.LongFuncsPerc, c.long[0].place, c.long[0].lines)
}
