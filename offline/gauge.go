package offline

import (
	"log/slog"
	"sync"
)

// A gauge keeps the figures of a store, and tells when its state changes.
type gauge struct {
	log *slog.Logger

	mu    sync.Mutex
	stats Stats // but for what is asked for when Stats is called
}

// measure notes the size of the file, and returns how much of it is used.
func (g *gauge) measure(f *file) (used int64) {
	size, free := f.sizes()
	room := f.room()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stats.FileBytes, g.stats.FreeBytes, g.stats.DiskBytes = size, free, room
	return size - free
}

// health notes how the store is, and writes one line when that changes.
func (g *gauge) health(now error) {
	g.mu.Lock()
	before := g.stats.LastError
	g.stats.LastError = now
	g.mu.Unlock()
	was, _ := StateOf(before)
	is, remedy := StateOf(now)
	switch {
	case is == was:
	case is == Ready:
		g.log.Info("the store takes messages again")
	default:
		g.log.Error("the store refuses new messages; what it has acknowledged before is safe", "state", is, "error", now, "remedy", remedy)
	}
}
