package sim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gateway/board"
)

var _ board.Board = (*Board)(nil)

func output(t *testing.T, b *Board, name string) board.Line {
	t.Helper()
	l, err := b.Line(board.LineConfig{Name: name, Output: true})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func input(t *testing.T, b *Board, name string) board.Line {
	t.Helper()
	l, err := b.Line(board.LineConfig{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func set(t *testing.T, l board.Line, on bool) {
	t.Helper()
	if err := l.Set(on); err != nil {
		t.Fatal(err)
	}
}

// frames reads a port as lines; a Read of nothing is not the end.
type frames struct{ io.Reader }

func (f frames) Read(b []byte) (n int, err error) {
	for n == 0 && err == nil {
		n, err = f.Reader.Read(b)
	}
	return n, err
}

// An instrument reads sim:climate.
type instrument struct {
	*testing.T
	in *bufio.Reader
}

func newInstrument(t *testing.T, b *Board) instrument {
	t.Helper()
	p, err := b.Port(board.PortConfig{Name: "sim:climate"})
	if err != nil {
		t.Fatal(err)
	}
	return instrument{t, bufio.NewReader(frames{p})}
}

// read returns the next frame.
func (i instrument) read() (c climate) {
	i.Helper()
	frame, err := i.in.ReadBytes('\n')
	if err != nil {
		i.Fatal(err)
	}
	if err := json.Unmarshal(frame, &c); err != nil {
		i.Fatalf("%s: %v", frame, err)
	}
	return c
}

// after returns the first frame after d; the ones missed are not kept.
func (i instrument) after(d time.Duration) climate {
	i.Helper()
	time.Sleep(d)
	i.read()
	return i.read()
}

// What the demo shows, at its speed: the first reading within 2 s, an open vent that visibly
// cools within 3 s, a heater that heats, a pump that waters and empties the tank.
func TestDemo(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			b := New(Options{Seed: seed, DoorEvery: -1})
			vent, heater, pump := output(t, b, "VENT"), output(t, b, "HEATER"), output(t, b, "PUMP")
			begin := time.Now()
			in := newInstrument(t, b)
			first := in.read()
			if d := time.Since(begin); d > time.Second {
				t.Errorf("the first frame came after %s", d)
			}
			if first.Air < first.Outside+5 || first.Sun < 200 || first.Time != "10:00" {
				t.Errorf("no morning: %+v", first)
			}
			set(t, vent, true)
			time.Sleep(3 * time.Second)
			in.read()
			cooler := in.read()
			if cooler.Air > first.Air-0.8 || cooler.Vent != 100 || cooler.Humidity >= first.Humidity {
				t.Errorf("seed %d: the vent is open, %+v became %+v", seed, first, cooler)
			}
			set(t, vent, false)
			set(t, heater, true)
			warmer := in.after(15 * time.Second)
			if warmer.Air < cooler.Air+5 || warmer.Vent != 0 {
				t.Errorf("seed %d: the heater is on, %+v became %+v", seed, cooler, warmer)
			}
			set(t, heater, false)
			set(t, pump, true)
			wetter := in.after(10 * time.Second)
			if wetter.Soil < warmer.Soil+1.5 || wetter.Tank > warmer.Tank-5 {
				t.Errorf("seed %d: the pump is on, %+v became %+v", seed, warmer, wetter)
			}
		})
	}
}

func TestFloat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{DoorEvery: -1})
		float := input(t, b, "FLOAT")
		if on, err := float.Get(); !on || err != nil {
			t.Fatalf("a full tank: %v, %v", on, err)
		}
		set(t, output(t, b, "PUMP"), true)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		if on, err := float.Wait(ctx); on || err != nil {
			t.Errorf("the tank was pumped empty, the float says %v, %v", on, err)
		}
	})
}

func TestDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{Seed: 1})
		door := input(t, b, "DOOR")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for _, want := range []bool{true, false, true, false} { // now and then, by itself
			if open, err := door.Wait(ctx); open != want || err != nil {
				t.Fatalf("the door is %v, %v, want %v", open, err, want)
			}
		}
		b.Door(true)
		if open, err := door.Wait(ctx); !open || err != nil {
			t.Errorf("by hand: %v, %v", open, err)
		}
		if _, err := door.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a door that is held moved: %v", err)
		}
	})
}

// A line has one user, reads back its level, and falls off when released.
func TestLines(t *testing.T) {
	b := New(Options{DoorEvery: -1})
	l, err := b.Line(board.LineConfig{Name: "HEATER", Output: true, Initial: true, ActiveLow: true})
	if err != nil {
		t.Fatal(err)
	}
	if on, err := l.Get(); !on || err != nil {
		t.Errorf("initial level %v, %v", on, err)
	}
	if _, err := b.Line(board.LineConfig{Name: "HEATER", Output: true}); !errors.Is(err, board.ErrBusy) {
		t.Errorf("taken twice: %v", err)
	}
	set(t, l, false)
	if on, err := l.Get(); on || err != nil {
		t.Errorf("after Set(false) %v, %v", on, err)
	}
	set(t, l, true)
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	b.look(func(g *greenhouse) {
		if g.heater {
			t.Error("the heater stayed on after its line was released")
		}
	})
	if err := l.Set(true); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Set after Close: %v", err)
	}
	output(t, b, "HEATER") // free again

	for _, tt := range []struct {
		c    board.LineConfig
		want string
	}{
		{board.LineConfig{Name: "GPIO17"}, "outputs are FAN, HEATER, LAMP, PUMP, VENT, inputs are DOOR, FLOAT"},
		{board.LineConfig{Name: "DOOR", Output: true}, "is an input"},
		{board.LineConfig{Name: "VENT"}, "is an output"},
	} {
		if _, err := b.Line(tt.c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.c, err, tt.want)
		}
	}
	door := input(t, b, "DOOR")
	if err := door.Set(true); err == nil {
		t.Error("an input was set")
	}
	waited := make(chan error)
	go func() { _, err := door.Wait(context.Background()); waited <- err }()
	if err := door.Close(); err != nil {
		t.Error(err)
	}
	if err := <-waited; !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Wait ended with %v when the line was closed", err)
	}
}

func TestPorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{})
		if _, err := b.Port(board.PortConfig{Name: "/dev/ttyUSB0"}); err == nil || !strings.Contains(err.Error(), "there are sim:climate, sim:weather") {
			t.Errorf("an unknown port: %v", err)
		}
		p, err := b.Port(board.PortConfig{Name: "sim:weather"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Port(board.PortConfig{Name: "sim:weather"}); !errors.Is(err, board.ErrBusy) {
			t.Errorf("taken twice: %v", err)
		}
		if n, err := p.Read(make([]byte, 9)); n != 0 || err != nil {
			t.Errorf("the first 100 ms: %d bytes, %v", n, err)
		}
		in := bufio.NewReader(frames{p})
		if s, err := in.ReadString('\n'); err != nil || strings.Count(s, ";") != 2 || !strings.HasSuffix(s, "\r\n") {
			t.Errorf("frame %q, %v", s, err)
		}
		begin := time.Now()
		if _, err := in.ReadString('\n'); err != nil || time.Since(begin) != framePeriod {
			t.Errorf("the next frame came after %s, %v", time.Since(begin), err)
		}
		if n, err := p.Write([]byte("hello")); n != 5 || err != nil {
			t.Errorf("write: %d, %v", n, err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if _, err := p.Read(make([]byte, 9)); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
		if _, err := b.Port(board.PortConfig{Name: "sim:weather"}); err != nil {
			t.Errorf("free again: %v", err)
		}
	})
}
