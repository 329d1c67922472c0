package sim

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"sync"
	"time"

	"gateway/board"
)

// Times of a port.
const (
	firstFrame  = 300 * time.Millisecond // after the opening: a frame does not begin before its reader
	framePeriod = time.Second
	readTick    = 100 * time.Millisecond // that a Read waits
)

// climate is a frame of the port sim:climate.
type climate struct {
	Air      float64 `json:"air"`
	Humidity float64 `json:"humidity"`
	Soil     float64 `json:"soil"`
	Outside  float64 `json:"outside"`
	Sun      float64 `json:"sun"`
	Vent     float64 `json:"vent"`
	Tank     float64 `json:"tank"`
	Door     bool    `json:"door"`
	Time     string  `json:"time"`
}

// ports are the frames of the ports.
var ports = map[string]func(g *greenhouse) []byte{
	"sim:climate": func(g *greenhouse) []byte {
		minutes := int(math.Mod(g.time, 24*3600) / 60)
		// A struct of numbers, of which none is infinite, always encodes.
		b, _ := json.Marshal(climate{
			Air:      tenths(g.air),
			Humidity: tenths(g.humidity()),
			Soil:     tenths(100 * g.soil / soilMass),
			Outside:  tenths(g.outside),
			Sun:      math.Round(g.sun),
			Vent:     math.Round(100 * g.window),
			Tank:     tenths(100 * g.tank / tankMass),
			Door:     g.door,
			Time:     fmt.Sprintf("%02d:%02d", minutes/60, minutes%60),
		})
		return append(b, '\n')
	},
	"sim:weather": func(g *greenhouse) []byte {
		return fmt.Appendf(nil, "%.1f;%.0f;%.0f\r\n", g.outside, g.sun, 100*outsideHumidity)
	},
}

func tenths(v float64) float64 { return math.Round(v*10) / 10 }

// Port implements board.Board. The speed and the other settings of the line do not matter.
func (b *Board) Port(c board.PortConfig) (board.Port, error) {
	frame := ports[c.Name]
	if frame == nil {
		return nil, fmt.Errorf("the simulated greenhouse has no serial port %q; there are %s", c.Name, names(ports))
	}
	if err := b.take(c.Name); err != nil {
		return nil, fmt.Errorf("serial port %w", err)
	}
	return &port{board: b, name: c.Name, frame: frame, next: time.Now().Add(firstFrame), closed: make(chan struct{})}, nil
}

// A port is an open port. One goroutine reads it.
type port struct {
	board *Board
	name  string
	frame func(g *greenhouse) []byte
	next  time.Time // when the next frame is sent
	rest  []byte    // of the last one, not read yet

	closeOnce sync.Once
	closed    chan struct{}
}

// Read implements board.Port. A reader that comes late misses frames; they are not kept.
func (p *port) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		wait := max(min(time.Until(p.next), readTick), 0)
		select {
		case <-p.closed:
			return 0, p.fault("read")
		case <-time.After(wait):
		}
		now := time.Now()
		if now.Before(p.next) {
			return 0, nil
		}
		for !p.next.After(now) {
			p.next = p.next.Add(framePeriod)
		}
		p.board.look(func(g *greenhouse) { p.rest = p.frame(g) })
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// Write implements board.Port: the instruments do not listen.
func (p *port) Write(b []byte) (int, error) {
	select {
	case <-p.closed:
		return 0, p.fault("write")
	default:
		return len(b), nil
	}
}

func (p *port) fault(doing string) error {
	return fmt.Errorf("serial port %s: %s: %w", p.name, doing, fs.ErrClosed)
}

// Close implements board.Port.
func (p *port) Close() error {
	p.closeOnce.Do(func() {
		close(p.closed)
		p.board.release(p.name)
	})
	return nil
}
