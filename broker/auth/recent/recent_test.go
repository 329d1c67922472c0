package recent_test

import (
	"testing"

	"gateway/broker/auth/recent"
)

func TestTable(t *testing.T) {
	table := recent.New[string, int](2)
	table.Put("a", 1)
	table.Put("b", 2)
	if v, ok := table.Get("a"); v != 1 || !ok {
		t.Errorf("a is %d, %t", v, ok)
	}
	table.Put("c", 3) // b makes room: a was used after it
	if _, ok := table.Get("b"); ok {
		t.Error("b is still there")
	}
	table.Put("a", 4)
	if v, _ := table.Get("a"); v != 4 || table.Len() != 2 {
		t.Errorf("a is %d, of %d", v, table.Len())
	}
	table.Drop(func(_ string, v int) bool { return v == 4 })
	if _, ok := table.Get("a"); ok || table.Len() != 1 {
		t.Errorf("a is still there, of %d", table.Len())
	}
	for i := range 1000 {
		table.Put(string(rune(i)), i)
	}
	if table.Len() != 2 {
		t.Errorf("%d of at most 2", table.Len())
	}
}
