package topic

import (
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Few levels and few words, so that filters and names meet.
var (
	someName = rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "", "$s"}), 1, 4),
		func(levels []string) string { return strings.Join(levels, "/") }).
		Filter(func(s string) bool { return s != "" })
	someFilter = rapid.Custom(func(t *rapid.T) string {
		levels := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "", "$s", "+", "+"}), 0, 4).Draw(t, "levels")
		if len(levels) == 0 || rapid.Bool().Draw(t, "multi-level") {
			levels = append(levels, "#")
		}
		return strings.Join(levels, "/")
	}).Filter(func(s string) bool { return s != "" })
)

type subscription struct {
	filter string
	key    int
}

// A Tree is a map of subscriptions that is searched with Match: a deep one, and one that is so
// wide that it needs maps.
func TestTreeModel(t *testing.T) {
	t.Run("deep", func(t *testing.T) { testTree(t, someName, someFilter, 4) })
	var words []string
	for c := 'a'; c < 'a'+2*few; c++ {
		words = append(words, string(c), "x/"+string(c))
	}
	t.Run("wide", func(t *testing.T) { testTree(t, rapid.SampledFrom(words), rapid.SampledFrom(words), 1) })
	t.Run("many keys", func(t *testing.T) { testTree(t, rapid.Just("a"), rapid.Just("+"), 3*few) })
}

func testTree(t *testing.T, names, filters *rapid.Generator[string], keys int) {
	rapid.Check(t, func(t *rapid.T) {
		var tree Tree[int, int]
		model := map[subscription]int{}
		value := 0
		draw := func(t *rapid.T) subscription {
			return subscription{filters.Draw(t, "filter"), rapid.IntRange(0, keys-1).Draw(t, "key")}
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				s := draw(t)
				_, had := model[s]
				value++
				model[s] = value
				if _, replaced := tree.Set(s.filter, s.key, value); replaced != had {
					t.Fatalf("set %+v: replaced = %t, want %t", s, replaced, had)
				}
			},
			"delete": func(t *rapid.T) {
				s := draw(t)
				_, had := model[s]
				delete(model, s)
				if deleted := tree.Delete(s.filter, s.key); deleted != had {
					t.Fatalf("delete %+v: %t, want %t", s, deleted, had)
				}
			},
			"delete one that is": func(t *rapid.T) {
				for s := range model {
					delete(model, s)
					if !tree.Delete(s.filter, s.key) {
						t.Fatalf("delete %+v: it was not there", s)
					}
					break
				}
			},
			"": func(t *rapid.T) {
				name := names.Draw(t, "name")
				got, want := map[subscription]int{}, map[subscription]int{}
				tree.Match(name, func(filter string, k, v int) {
					if _, twice := got[subscription{filter, k}]; twice {
						t.Fatalf("%q: %q visited twice for key %d", name, filter, k)
					}
					got[subscription{filter, k}] = v
				})
				for s, v := range model {
					if Match(s.filter, name) {
						want[s] = v
					}
				}
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("%q matches %v, want %v", name, got, want)
				}
				if tree.Len() != len(model) {
					t.Fatalf("length = %d, want %d", tree.Len(), len(model))
				}
			},
		})
		for s := range model {
			tree.Delete(s.filter, s.key)
		}
		if !tree.root.empty() || tree.Len() != 0 || tree.Levels() != 0 {
			t.Fatalf("an empty tree still has %d subscriptions and %d levels", tree.Len(), tree.Levels())
		}
	})
}

// Names is a map of names that is searched with Match.
func TestNamesModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var names Names[int]
		model := map[string]int{}
		value := 0
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				name := someName.Draw(t, "name")
				value++
				model[name] = value
				names.Set(name, value)
			},
			"delete": func(t *rapid.T) {
				name := someName.Draw(t, "name")
				_, had := model[name]
				delete(model, name)
				if deleted := names.Delete(name); deleted != had {
					t.Fatalf("delete %q: %t, want %t", name, deleted, had)
				}
			},
			"": func(t *rapid.T) {
				checkNames(t, &names, model)
			},
		})
		for name := range model {
			names.Delete(name)
		}
		if names.root.children != nil || names.Len() != 0 {
			t.Fatalf("%d names and %d branches are left", names.Len(), len(names.root.children))
		}
	})
}

func checkNames(t *rapid.T, names *Names[int], model map[string]int) {
	filter := someFilter.Draw(t, "filter")
	got, want := map[string]int{}, map[string]int{}
	names.Match(filter, func(name string, v int) bool {
		if _, twice := got[name]; twice {
			t.Fatalf("%q: %q visited twice", filter, name)
		}
		got[name] = v
		return true
	})
	for name, v := range model {
		if Match(filter, name) {
			want[name] = v
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%q matches %v, want %v", filter, got, want)
	}
	visits, most := 0, rapid.IntRange(1, 3).Draw(t, "most")
	names.Match(filter, func(string, int) bool { visits++; return visits < most })
	if visits != min(most, len(want)) {
		t.Fatalf("%q: %d visits, want %d of %d", filter, visits, most, len(want))
	}
	name := someName.Draw(t, "name")
	v, ok := names.Get(name)
	if w, had := model[name]; ok != had || v != w {
		t.Fatalf("get %q: %d, %t, want %d, %t", name, v, ok, w, had)
	}
	if names.Len() != len(model) {
		t.Fatalf("length = %d, want %d", names.Len(), len(model))
	}
}

// unrelated fills a tree with n filters that have nothing to do with the greenhouse.
func unrelated(n int) *Tree[*int, int] {
	tree := new(Tree[*int, int])
	for i := range n {
		tree.Set(fmt.Sprintf("plant/%d/line/%d/+", i/100, i%100), new(int), i)
	}
	return tree
}

func TestMatchAllocates(t *testing.T) {
	tree := unrelated(1000)
	for _, filter := range []string{"#", "+/+/+", "greenhouse/#", "greenhouse/air/+", "greenhouse/air/temperature"} {
		tree.Set(filter, new(int), 1)
	}
	visits := 0
	allocs := testing.AllocsPerRun(100, func() {
		tree.Match("greenhouse/air/temperature", func(_ string, _ *int, v int) { visits += v })
	})
	if allocs != 0 || visits != 5*101 {
		t.Errorf("%v allocations for %d visits, want 0 for %d", allocs, visits, 5*101)
	}
}

// A subscription costs less than 1 KB, even with levels of its own all the way down.
func TestTreeMemory(t *testing.T) {
	const n = 20_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	tree := new(Tree[*int, int])
	for i := range n {
		tree.Set(fmt.Sprintf("%d/a/b/c/d", i), new(int), i)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / n
	if each <= 0 || each >= 1024 {
		t.Errorf("%d bytes per subscription, want less than 1024", each)
	}
	t.Logf("%d bytes per subscription of 5 levels", each)
	runtime.KeepAlive(tree)
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{0, 100_000} {
		b.Run(fmt.Sprintf("unrelated=%d", n), func(b *testing.B) {
			tree := unrelated(n)
			tree.Set("greenhouse/#", new(int), 1)
			tree.Set("greenhouse/+/temperature", new(int), 1)
			b.ReportAllocs()
			visits := 0
			for b.Loop() {
				tree.Match("greenhouse/air/temperature", func(string, *int, int) { visits++ })
			}
			if visits == 0 {
				b.Fatal("nothing matched")
			}
		})
	}
}
