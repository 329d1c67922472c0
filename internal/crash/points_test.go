package crash

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A crash point is a comment in the gateway's source, alone on its line: "//crash:" and a name.
// In the program that the tests build, the gateway kills itself there when it is told to.
var crashPoint = regexp.MustCompile(`(?m)^\t+//crash:([a-z-]+)$`)

// pointSource is added to every package with crash points. GATEWAY_CRASH is NAME@N: die at the
// point when it is passed for the Nth time.
const pointSource = `package %s

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var crashPasses atomic.Int64

func crashPoint(name string) {
	at, n, _ := strings.Cut(os.Getenv("GATEWAY_CRASH"), "@")
	if at != name {
		return
	}
	if most, _ := strconv.ParseInt(n, 10, 64); crashPasses.Add(1) >= most {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
`

// points returns the names of all crash points, and the source with calls in their place.
func points(t *testing.T) (names []string, texts map[string]string) {
	t.Helper()
	texts = map[string]string{}
	for _, folder := range []string{"broker", "offline", "bridge"} {
		err := fs.WalkDir(os.DirFS(root), folder, func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
				return err
			}
			b, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				return err
			}
			for _, m := range crashPoint.FindAllSubmatch(b, -1) {
				names = append(names, path.Dir(file)+"."+string(m[1]))
				name := path.Base(path.Dir(file))
				texts[path.Join(path.Dir(file), "crash_point.go")] = fmt.Sprintf(pointSource, name)
				texts[file] = crashPoint.ReplaceAllString(string(b), `crashPoint("`+path.Dir(file)+`.$1")`)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return names, texts
}

// TestPoints lets the gateway die at every crash point: between the arrival of a packet and its
// acknowledgement, in the hand-over to the cloud and from it, and while a store is made. At every
// second death the power goes as well.
func TestPoints(t *testing.T) {
	needDisk(t)
	names, texts := points(t)
	if len(names) < 25 {
		t.Fatalf("there are only %d crash points: %q", len(names), names)
	}
	apply(t, texts, oftenCompacted...)
	apply(t, texts, oftenHoles...)
	binary := build(t, "points", texts)
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			s := newSite(t, binary, newDisk(), version)
			s.begin()
			s.kill()
			for i, name := range names {
				if !rescue[name] { // TestRescuePoints passes these
					s.dieAt(name, i)
				}
			}
			s.start()
			if faults := s.finish(30 * time.Second); len(faults) > 0 {
				s.fail("at the end", faults)
			}
			t.Logf("%d crash points; %v; lost 0, doubled at QoS 2 0, out of order 0", len(names), s.book.sum())
		})
	}
}

// dieAt lets the gateway die at a point when it is passed for the first, second and ninth time.
func (s *site) dieAt(name string, number int) {
	s.t.Helper()
	if creation[name] {
		s.create(name) // it is passed once
		return
	}
	for passes, where := range []string{"@1", "@2", "@9"} {
		s.expectDeath(name + where)
		if (number+passes)%2 == 0 {
			s.cut(fate(s.random.IntN(int(fates))))
		}
		if faults := s.inspect(); len(faults) > 0 {
			s.fail(name+where, faults)
		}
	}
}

// creation are the points that are passed only while a store is made.
var creation = map[string]bool{
	"offline.file-made": true, "offline.buckets-made": true, "offline.file-finished": true,
	"offline.renamed": true, "offline.before-folder-sync": true,
}

// rescue are the points that are passed only while a damaged store is set aside.
var rescue = map[string]bool{
	"offline.before-salvage": true, "offline.salvaged": true, "offline.set-aside": true,
}

// create lets a gateway die while it makes its store, three times with a power cut, and looks
// whether the next start makes one that is sound.
func (s *site) create(name string) {
	s.t.Helper()
	d := newDisk()
	fresh := newSite(s.t, s.binary, d, "")
	for f := range fates {
		fresh.expectDeath(name + "@1")
		left := d.image(f, fresh.random)
		if faults := examine(s.t, left, backlog{}, true); len(faults) > 0 {
			fresh.fail(fmt.Sprintf("%s, %v", name, f), faults)
		}
		fresh.kill()
		fresh.remount(nil)
	}
}

// expectDeath starts the gateway and waits until it has died at a point.
func (s *site) expectDeath(where string) {
	s.t.Helper()
	s.start("GATEWAY_CRASH=" + where)
	select {
	case <-s.exited:
	case <-time.After(40 * time.Second): // the cloud may have to be waited for
		s.t.Fatalf("%s is not passed", where)
	}
}
