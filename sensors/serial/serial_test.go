package serial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gateway/board"
	"gateway/sensors"
)

// A bench is a board with one port, "A", whose other end the test holds.
type bench struct {
	mu      sync.Mutex
	missing error // why the port cannot be opened
	open    *end
	opens   int
}

func (b *bench) Line(board.LineConfig) (board.Line, error) { return nil, errors.New("no lines") }

func (b *bench) Port(c board.PortConfig) (board.Port, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.missing != nil:
		return nil, b.missing
	case b.open != nil:
		return nil, board.ErrBusy // opened before it was closed
	}
	b.opens++
	b.open = &end{bench: b, in: make(chan []byte, 64), gone: make(chan struct{})}
	return b.open, nil
}

// An end is an open port.
type end struct {
	bench *bench
	in    chan []byte
	gone  chan struct{}
	out   strings.Builder
	reply func(frame string) string // what the device answers
}

func (e *end) Read(p []byte) (int, error) {
	select {
	case b := <-e.in:
		return copy(p, b), nil
	case <-e.gone:
		return 0, fmt.Errorf("serial port A: read: %w", board.ErrGone)
	case <-time.After(100 * time.Millisecond):
		return 0, nil
	}
}

func (e *end) Write(p []byte) (int, error) {
	e.bench.mu.Lock()
	defer e.bench.mu.Unlock()
	e.out.Write(p)
	if e.reply != nil {
		e.in <- []byte(e.reply(string(p)))
	}
	return len(p), nil
}

func (e *end) Close() error {
	e.bench.mu.Lock()
	defer e.bench.mu.Unlock()
	e.bench.open = nil
	return nil
}

// device returns the open end, after the pause in which a frame's beginning is sure.
func (b *bench) device(t *testing.T) *end {
	t.Helper()
	time.Sleep(200 * time.Millisecond)
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil {
		t.Fatal("the port is not open")
	}
	return b.open
}

// send plays bytes into the port.
func (e *end) send(s string) {
	e.in <- []byte(s)
	synctest.Wait()
}

// fail makes the port missing, or present again.
func (b *bench) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.missing = err
	if err != nil && b.open != nil {
		close(b.open.gone)
	}
}

// readings collects what a driver emits.
type readings struct {
	mu  sync.Mutex
	all []sensors.Reading
}

func (r *readings) emit(x sensors.Reading) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, x)
}

// take returns the readings since the last take, as "point=value" or "point!reason".
func (r *readings) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var s []string
	for _, x := range r.all {
		if x.Quality == sensors.Bad {
			s = append(s, fmt.Sprintf("%s!%v", x.Point, x.Err))
		} else {
			s = append(s, fmt.Sprintf("%s=%v%s", x.Point, x.Value, x.Unit))
		}
	}
	r.all = nil
	return strings.Join(s, " ")
}

// lines counts log lines.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), part)
}

type rig struct {
	*testing.T
	*Driver
	bench *bench
	got   *readings
	logs  *lines
}

// newRig runs a driver in a synctest bubble until the test ends.
func newRig(t *testing.T, c Config) *rig {
	t.Helper()
	c.Port.Name, c.Port.Baud = "A", 9600
	r := &rig{T: t, bench: new(bench), got: new(readings), logs: new(lines)}
	d, err := New(r.bench, c, slog.New(slog.NewTextHandler(r.logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	r.Driver = d
	return r
}

func (r *rig) run() (stop func()) {
	ctx, cancel := context.WithCancel(r.Context())
	done := make(chan error)
	go func() { done <- r.Driver.Run(ctx, r.got.emit) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			r.Error(err)
		}
		if r.bench.open != nil {
			r.Error("the port was left open")
		}
	}
}

func (r *rig) expect(want string) {
	r.Helper()
	if got := r.got.take(); got != want {
		r.Errorf("readings\n  %s\nwant\n  %s", got, want)
	}
}

var temperature = Frame{Format: Split, Separator: ";", Fields: []Field{
	{Field: "0", Point: "t", Unit: "°C"}, {Field: "1", Point: "h", Unit: "%"},
}}

func TestMapping(t *testing.T) {
	for _, tt := range []struct {
		name  string
		frame Frame
		in    string
		want  string // "-": not of this sort
	}{
		{"columns", temperature, "21.5; 60", "t=21.5 h=60"},
		{"column missing", temperature, "21.5", "t=21.5 h!no column 1: the frame has 1"},
		{"no number", temperature, "ok;60", `t!"ok" is not a number h=60`},
		{"not finite", temperature, "nan;inf", `t!"nan" is not a number h!"inf" is not a number`},
		{"comma by default", Frame{Format: Split, Fields: []Field{{Field: "2", Point: "p"}}}, "a,b,3", "p=3"},
		{"tabs", Frame{Format: Split, Separator: "\t", Fields: []Field{{Field: "1", Point: "p"}}}, "a\t7\t", "p=7"},
		{"scale and offset", Frame{Format: Split, Fields: []Field{
			{Field: "0", Point: "p", Calibration: sensors.Calibration{Scale: 0.1, Offset: -40}},
		}}, "615", "p=21.5"},
		{"match", Frame{Format: Split, Match: "^T:", Separator: ":", Fields: []Field{{Field: "1", Point: "p"}}}, "T:4", "p=4"},
		{"no match", Frame{Format: Split, Match: "^T:", Fields: []Field{{Field: "1", Point: "p"}}}, "H:4", "-"},
		{"named group", Frame{Format: Regexp, Pattern: `T=(?<t>-?\d+)`, Fields: []Field{{Field: "t", Point: "p"}}}, "x T=-12 y", "p=-12"},
		{"numbered group", Frame{Format: Regexp, Pattern: `(\w+)=(\d+)`, Fields: []Field{{Field: "2", Point: "p"}}}, "a=7", "p=7"},
		{"another sort", Frame{Format: Regexp, Pattern: `^T=(\d+)$`, Fields: []Field{{Field: "1", Point: "p"}}}, "debug", "-"},
		{"json", Frame{Format: JSON, Fields: []Field{
			{Field: "air", Point: "a"}, {Field: "s.1.v", Point: "b"}, {Field: "door", Point: "c", Kind: sensors.Switch}, {Field: "n", Point: "d", Kind: sensors.Text},
		}}, `{"air":"21.5","s":[0,{"v":3e2}],"door":false,"n":12}`, "a=21.5 b=300 c=false d=12"},
		{"json words", Frame{Format: JSON, Fields: []Field{{Field: "d", Point: "p", Kind: sensors.Switch, Words: sensors.Words{On: "open", Off: "closed"}}}},
			`{"d":"OPEN"}`, "p=true"},
		{"json missing", Frame{Format: JSON, Fields: []Field{{Field: "a.b", Point: "p"}}}, `{"a":{}}`, `p!the frame has no "a.b"`},
		{"json index", Frame{Format: JSON, Fields: []Field{{Field: "a.-1", Point: "p"}}}, `{"a":[1]}`, `p!the frame has no "a.-1"`},
		{"json null", Frame{Format: JSON, Fields: []Field{{Field: "a", Point: "p"}}}, `{"a":null}`, "p!the device reports null"},
		{"json object", Frame{Format: JSON, Fields: []Field{{Field: "a", Point: "p"}}}, `{"a":{}}`, `p!"a" is an object or an array`},
		{"json cut", Frame{Format: JSON, Fields: []Field{{Field: "a", Point: "p"}}}, `{"a":`, "p!not valid JSON: unexpected end of JSON input"},
		{"text", Frame{Format: Split, Fields: []Field{{Field: "0", Point: "p", Kind: sensors.Text}}}, "a\xb0C", "p=a\uFFFDC"},
	} {
		s, err := newSort(tt.frame)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		values, mine := s.values(tt.in)
		var got []string
		for _, v := range values {
			if v.err != nil {
				got = append(got, fmt.Sprintf("%s!%v", v.field.Point, v.err))
			} else {
				got = append(got, fmt.Sprintf("%s=%v", v.field.Point, v.value))
			}
		}
		if g := strings.Join(got, " "); mine != (tt.want != "-") || mine && g != tt.want {
			t.Errorf("%s: %v %q, want %q", tt.name, mine, g, tt.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Frames: []Frame{{Match: "("}}}, "match"},
		{Config{Frames: []Frame{{Format: Regexp, Pattern: "("}}}, "pattern"},
		{Config{Frames: []Frame{{Format: Regexp, Pattern: "(a)", Fields: []Field{{Field: "2", Point: "p"}}}}}, `no field "2"`},
		{Config{Frames: []Frame{{Format: Regexp, Pattern: "(?<a>a)", Fields: []Field{{Field: "b", Point: "p"}}}}}, `no field "b"`},
		{Config{Frames: []Frame{{Format: Split, Fields: []Field{{Field: "-1", Point: "p"}}}}}, `no field "-1"`},
		{Config{Writes: []Write{{Point: "w"}, {Point: "w"}}}, "two writes"},
	} {
		if _, err := New(new(bench), tt.c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: error %v, want %q", tt.c, err, tt.want)
		}
	}
}

func TestFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{MaxFrame: 16, Frames: []Frame{temperature}})
		defer r.run()()
		dev := r.bench.device(t)
		dev.send("21;60\r\n\r\n\n")
		r.expect("t=21°C h=60%")
		dev.send("22")
		dev.send(";61\n23;")
		dev.send("62\n")
		r.expect("t=22°C h=61% t=23°C h=62%")
		dev.send("\x00\x00\x0224;63\x03\r\n") // a device that wakes up, or frames with STX and ETX
		r.expect("t=24°C h=63%")

		dev.send("1\x001;2\n3\x013;4\n") // one fault for two broken frames
		r.expect("t!" + errBinary.Error() + " h!" + errBinary.Error())
		dev.send("25;64\n")
		r.expect("t=25°C h=64%")

		const long = "no end of frame within 16 bytes: check the speed and the delimiter"
		dev.send(strings.Repeat("9", 1000))
		dev.send(";1\n26;65\n") // taken up again at the delimiter
		r.expect("t!" + long + " h!" + long + " t=26°C h=65%")
		dev.send("0123456789;65432\n") // just 16
		r.expect("t=1.23456789e+08°C h=65432%")
		if s := r.Stats(); s != (Stats{Opened: 1, Frames: 6 + 1, Unreadable: 3}) {
			t.Errorf("stats %+v", s)
		}
		if n := r.logs.count("noise"); n != 1 {
			t.Errorf("%d lines about noise within a minute, want 1", n)
		}
	})
}

// A frame that began before the port was opened may have lost its first digits.
func TestFirstFrameIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Frames: []Frame{temperature}})
		defer r.run()()
		synctest.Wait()
		r.bench.open.send("1.5;60\n21.5;61\n")
		r.expect("t=21.5°C h=61%")
	})
}

func TestSortsShareAPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Idle: time.Minute, Frames: []Frame{
			{Format: Split, Match: "^T ", Separator: " ", Fields: []Field{{Field: "1", Point: "t"}}},
			{Format: Regexp, Pattern: `^H=(\d+)$`, Fields: []Field{{Field: "1", Point: "h"}}},
			{Format: Regexp, Pattern: `^WIND (\d+)$`, Fields: []Field{{Field: "1", Point: "w"}}},
		}})
		defer r.run()()
		dev := r.bench.device(t)
		dev.send("T 20\nH=50\nbooting\n")
		r.expect("t=20 h=50")
		if s := r.Stats(); s.Unmatched != 1 {
			t.Errorf("stats %+v, want 1 unmatched", s)
		}
		dev.send("T x\n")
		dev.send("T y\nH=51\n")
		r.expect(`t!"x" is not a number h=51`)
		for range 3 { // WIND never comes: its pattern may be wrong
			time.Sleep(40 * time.Second)
			dev.send("H=52\n")
		}
		r.expect("h=52 w!what the port sends has matched no frame of this point yet: check match, pattern and delimiter h=52 h=52")
		dev.send("a\x01b\n") // t and w have their own faults already
		r.expect("h!" + errBinary.Error())
	})
}

func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Idle: time.Minute, Frames: []Frame{temperature}})
		defer r.run()()
		dev := r.bench.device(t)
		dev.send("20;50\n")
		time.Sleep(59 * time.Second)
		r.expect("t=20°C h=50%")
		time.Sleep(10 * time.Minute)
		const silent = "serial port A: nothing received for 1m0s: check the cable and the speed, now 9600 baud"
		r.expect("t!" + silent + " h!" + silent)
		dev.send("21;51\n")
		r.expect("t=21°C h=51%")
		if warn, info := r.logs.count("level=WARN"), r.logs.count("readings again"); warn != 1 || info != 1 {
			t.Errorf("logged %d times silence and %d times its end, want once each", warn, info)
		}
	})
}

// A port that is missing at start, comes, is unplugged and returns: one bad reading and one line
// for each change.
func TestUnplug(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Frames: []Frame{temperature}})
		missing := fmt.Errorf("serial port A is not there: %w", board.ErrGone)
		r.bench.fail(missing)
		defer r.run()()
		time.Sleep(time.Hour)
		r.expect(fmt.Sprintf("t!%v h!%v", missing, missing))
		if n := r.logs.count("level="); n != 1 {
			t.Errorf("%d lines for a port that is missing, want 1", n)
		}
		r.bench.fail(nil)
		time.Sleep(lastRetry)
		r.bench.device(t).send("20;50\n")
		r.expect("t=20°C h=50%")
		time.Sleep(time.Minute)
		r.bench.fail(missing)
		time.Sleep(time.Hour)
		const gone = "serial port A: read: no longer there"
		r.expect("t!" + gone + " h!" + gone)
		r.bench.fail(nil)
		time.Sleep(lastRetry)
		r.bench.device(t).send("21;51\n")
		r.expect("t=21°C h=51%")
		if r.bench.opens != 2 {
			t.Errorf("opened %d times, want 2", r.bench.opens)
		}
	})
}

func TestWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{
			Frames: []Frame{{Format: Regexp, Pattern: `^LAMP (\w+)$`, Fields: []Field{{Field: "1", Point: "lamp", Kind: sensors.Switch}}}},
			Writes: []Write{
				{Point: "lamp", Template: "set lamp {value}", Safe: false},
				{Point: "text", Template: "[{value}]"},
			},
		})
		lamp, text := r.Actuator("lamp"), r.Actuator("text")
		if r.Actuator("other") != nil {
			t.Error("an actuator that is not configured")
		}
		ctx := t.Context()
		if err := lamp.Write(ctx, true); err == nil || !strings.Contains(err.Error(), "not opened yet") {
			t.Errorf("write before the port is open: %v", err)
		}
		defer r.run()()
		dev := r.bench.device(t)

		// The device says what it was before it says what it is.
		dev.reply = func(string) string { return "LAMP off\nLAMP on\n" }
		if err := lamp.Write(ctx, true); err != nil {
			t.Fatal(err)
		}
		if v, err := lamp.Read(ctx); v != true || err != nil {
			t.Errorf("read %v, %v, want on", v, err)
		}
		r.expect("lamp=false lamp=true")
		dev.reply = func(string) string { return "LAMP on\n" } // it does not obey
		if err := lamp.MakeSafe(ctx); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if v, err := lamp.Read(ctx); v != true || err != nil || time.Since(begin) != DefaultReply {
			t.Errorf("read %v, %v after %s, want on after the reply's time", v, err, time.Since(begin))
		}
		dev.reply = nil
		if err := lamp.Write(ctx, false); err != nil {
			t.Fatal(err)
		}
		if _, err := lamp.Read(ctx); err == nil {
			t.Error("a command that the device did not answer was read back")
		}

		if err := text.Write(ctx, "hello"); err != nil {
			t.Fatal(err)
		}
		if _, err := text.Read(ctx); !errors.Is(err, sensors.ErrNotMeasured) {
			t.Errorf("read of what nothing measures: %v", err)
		}
		if err := text.MakeSafe(ctx); err != nil {
			t.Errorf("no safe state: %v", err)
		}
		if err := text.Write(ctx, "x]\nset lamp on"); err == nil {
			t.Error("a value smuggled a second frame")
		}
		if got, want := dev.out.String(), "set lamp on\nset lamp off\nset lamp off\n[hello]\n"; got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
	})
}

// FuzzFrames feeds arbitrary bytes in arbitrary pieces: nothing panics, memory is bounded, every
// value is sound, and the pieces do not matter.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("21.5;60\r\n{\"a\":{\"b\":[1]}}\nT=5\n"), 3)
	f.Add([]byte(strings.Repeat("x", 100)+"\n1;2\n"), 1)
	f.Add([]byte("\x00\xff\n;\n"), 7)
	f.Add([]byte("a\n\r\n\rb"), 2)
	var sorts []*sort
	for _, frame := range []Frame{
		temperature,
		{Format: JSON, Fields: []Field{{Field: "a.b.0", Point: "a"}, {Field: "0", Point: "b", Kind: sensors.Switch}}},
		{Format: Regexp, Pattern: `T=(.*)`, Fields: []Field{{Field: "1", Point: "c", Kind: sensors.Text}}},
	} {
		s, err := newSort(frame)
		if err != nil {
			f.Fatal(err)
		}
		sorts = append(sorts, s)
	}
	const most = 32
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		for _, delim := range []string{"\n", "\r\n", "aab"} {
			frames := func(piece int) (all []string) {
				fr := newFramer(delim, most)
				fr.quiet()
				for p := range slices.Chunk(in, piece) {
					fr.push(p, func(b []byte, err error) {
						if len(b) > most {
							t.Fatalf("a frame of %d bytes", len(b))
						}
						all = append(all, fmt.Sprintf("%q %v", b, err))
						for _, s := range sorts {
							values, _ := s.values(string(b))
							for _, v := range values {
								if x, ok := v.value.(float64); v.err == nil && ok && (math.IsNaN(x) || math.IsInf(x, 0)) {
									t.Fatalf("%q became %v", b, x)
								}
							}
						}
					})
					if len(fr.buf) > most+len(delim) {
						t.Fatalf("holds %d bytes", len(fr.buf))
					}
				}
				return all
			}
			if piece < 1 || piece > len(in) {
				piece = 1
			}
			if whole, pieces := frames(max(len(in), 1)), frames(piece); !slices.Equal(whole, pieces) {
				t.Errorf("in one piece %q, in pieces of %d %q", whole, piece, pieces)
			}
		}
	})
}
