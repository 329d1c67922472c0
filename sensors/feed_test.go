package sensors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// A message is what a recorder was given.
type message struct {
	topic, payload string
	retain         bool
}

// A recorder is a Publisher that remembers, refuses while err is set, and is slow while gate is
// not nil.
type recorder struct {
	gate chan struct{}

	mu   sync.Mutex
	err  error
	sent []message
}

func (p *recorder) Publish(topic string, payload []byte, retain bool) error {
	if p.gate != nil {
		<-p.gate
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	p.sent = append(p.sent, message{topic, string(payload), retain})
	return nil
}

func (p *recorder) refuse(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// take returns what was sent on a topic since the last take, in order; "" is every topic.
func (p *recorder) take(topic string) []message {
	p.mu.Lock()
	defer p.mu.Unlock()
	var taken, rest []message
	for _, m := range p.sent {
		if topic == "" || m.topic == topic {
			taken = append(taken, m)
		} else {
			rest = append(rest, m)
		}
	}
	p.sent = rest
	return taken
}

// payloads returns the payloads taken on a topic.
func (p *recorder) payloads(topic string) string {
	var s []string
	for _, m := range p.take(topic) {
		s = append(s, m.payload)
	}
	return strings.Join(s, " ")
}

// logs collects the lines of a logger.
type logs struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), part)
}

func newLog() (*slog.Logger, *logs) {
	l := new(logs)
	return slog.New(slog.NewTextHandler(l, nil)), l
}

// runFeed starts a feed inside a synctest bubble; stop ends and waits for it.
func runFeed(t *testing.T, p Publisher, points ...Point) (f *Feed, stop func()) {
	t.Helper()
	log, _ := newLog()
	f, err := NewFeed(p, log, points...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return f, func() { cancel(); <-done }
}

func number(v float64) Reading { return Reading{Point: "p", Value: v} }

func TestFeedPayload(t *testing.T) {
	at := time.Date(2026, 11, 21, 9, 0, 0, 123456789, time.FixedZone("CET", 3600))
	door := Words{On: "open", Off: "closed"}
	for _, tt := range []struct {
		name  string
		point Point
		r     Reading
		want  string
	}{
		{"number", Point{}, Reading{Value: 21.5, Unit: "°C", At: at},
			`{"value":21.5,"unit":"°C","quality":"good","at":"2026-11-21T08:00:00.123Z"}`},
		{"switch", Point{Words: door}, Reading{Value: true, At: at},
			`{"value":"open","quality":"good","at":"2026-11-21T08:00:00.123Z"}`},
		{"text", Point{}, Reading{Value: "a<b", At: at},
			`{"value":"a<b","quality":"good","at":"2026-11-21T08:00:00.123Z"}`},
		{"bad", Point{}, Reading{Unit: "%", Quality: Bad, Err: errors.New("no sensor"), At: at},
			`{"value":null,"unit":"%","quality":"bad","error":"no sensor","at":"2026-11-21T08:00:00.123Z"}`},
		{"uncertain", Point{}, Reading{Value: 1.0, Quality: Uncertain, Err: errors.New("clock not set"), At: at},
			`{"value":1,"quality":"uncertain","error":"clock not set","at":"2026-11-21T08:00:00.123Z"}`},
		{"not finite", Point{}, Reading{Value: math.NaN(), At: at},
			`{"value":null,"quality":"bad","error":"the driver's value is not a finite number","at":"2026-11-21T08:00:00.123Z"}`},
		{"foreign type", Point{}, Reading{Value: 1, At: at},
			`{"value":null,"quality":"bad","error":"the driver gave a int, which is neither number, switch nor text","at":"2026-11-21T08:00:00.123Z"}`},
		{"plain number", Point{Format: Plain}, Reading{Value: 21.5, Unit: "°C", At: at}, "21.5"},
		{"plain large number", Point{Format: Plain}, Reading{Value: 12345678.0, At: at}, "12345678"},
		{"plain switch", Point{Format: Plain}, Reading{Value: false, At: at}, "off"},
		{"plain bad removes the retained value", Point{Format: Plain}, Reading{Quality: Bad, At: at}, ""},
		{"calibrated", Point{Filter: Filter{Calibration: Calibration{Scale: 1.1, Offset: -0.5}}}, Reading{Value: 21.5, At: at},
			`{"value":23.15,"quality":"good","at":"2026-11-21T08:00:00.123Z"}`},
		{"below the range", Point{Filter: Filter{Range: &Range{-40, math.Inf(1)}}}, Reading{Value: -127.0, At: at},
			`{"value":null,"quality":"bad","error":"-127 is below -40","at":"2026-11-21T08:00:00.123Z"}`},
		{"range after calibration", Point{Filter: Filter{Calibration: Calibration{Offset: 60}, Range: &Range{-40, 60}}},
			Reading{Value: 25.0, Unit: "°C", At: at},
			`{"value":null,"unit":"°C","quality":"bad","error":"85 °C is above 60 °C","at":"2026-11-21T08:00:00.123Z"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := new(recorder)
				tt.point.Topic, tt.r.Point = "p", "p"
				f, stop := runFeed(t, p, tt.point)
				f.Emit(tt.r)
				synctest.Wait()
				stop()
				if got := p.take(""); len(got) != 1 || got[0] != (message{"p", tt.want, true}) {
					t.Errorf("got %v\nwant %s, retained", got, tt.want)
				}
			})
		})
	}
}

func TestFeedNoRetain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(recorder)
		f, stop := runFeed(t, p, Point{Topic: "p", Format: Plain, NoRetain: true})
		f.Emit(number(1))
		stop()
		if got := p.take(""); len(got) != 1 || got[0].retain {
			t.Errorf("got %v, want one message that is not retained", got)
		}
	})
}

// A fault is one bad reading, however often it is polled, and the return one good reading.
func TestFeedOneBadReadingPerChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(recorder)
		f, stop := runFeed(t, p, Point{Topic: "p", Filter: Filter{Range: &Range{0, 50}}})
		emit := func(r Reading) {
			f.Emit(r)
			time.Sleep(time.Second)
		}
		for range 3 {
			emit(bad("p", "", errors.New("cable"), time.Time{}))
		}
		emit(bad("p", "", errors.New("gone"), time.Time{})) // another fault
		emit(number(20))
		for i := range 3 {
			emit(number(60 + float64(i))) // out of range, wandering
		}
		emit(number(21))
		stop()
		var got []string
		for _, m := range p.take("p") {
			var r struct{ Quality, Error string }
			if err := json.Unmarshal([]byte(m.payload), &r); err != nil {
				t.Fatal(err)
			}
			got = append(got, r.Quality+" "+r.Error)
		}
		want := []string{"bad cable", "bad gone", "good ", "bad 60 is above 50", "good "}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestFeedRangeIsLoggedOnce(t *testing.T) {
	log, lines := newLog()
	f, err := NewFeed(new(recorder), log, Point{Topic: "p", Filter: Filter{Range: &Range{0, 50}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []float64{20, 60, 61, 20, 21} {
		f.Emit(number(v))
	}
	if out, in := lines.count("out of range"), lines.count("in range again"); out != 1 || in != 1 {
		t.Errorf("logged %d times out of range and %d times in range again, want once each", out, in)
	}
}

func TestFeedDeadbandAndHeartbeat(t *testing.T) {
	for _, tt := range []struct {
		name   string
		filter Filter
		values []Value // one a second
		want   string
	}{
		{"none", Filter{}, []Value{1.0, 1.0, 1.0}, "1 1 1"},
		{"deadband", Filter{Deadband: 0.5}, []Value{20.0, 20.4, 20.5, 20.1, 20.0, 19.0}, "20 20.5 20 19"},
		{"no creeping", Filter{Deadband: 1}, []Value{1.0, 1.6, 2.2, 2.8, 3.4}, "1 2.2 3.4"},
		{"heartbeat", Filter{Deadband: 9, Heartbeat: 2 * time.Second}, []Value{1.0, 1.1, 1.2, 1.3, 1.4}, "1 1.2 1.4"},
		{"heartbeat alone", Filter{Heartbeat: time.Minute}, []Value{1.0, 1.0, 1.1, 1.1}, "1 1.1"},
		{"switch", Filter{Deadband: 1}, []Value{true, true, false, false, true}, "on off on"},
		{"text", Filter{Heartbeat: time.Hour}, []Value{"a", "a", "b"}, "a b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := new(recorder)
				f, stop := runFeed(t, p, Point{Topic: "p", Format: Plain, Filter: tt.filter})
				for _, v := range tt.values {
					f.Emit(Reading{Point: "p", Value: v})
					time.Sleep(time.Second)
				}
				stop()
				if got := p.payloads("p"); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			})
		})
	}
}

// A door that opens and closes again within the interval is published closed at its end.
func TestFeedMinIntervalEndsWithTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(recorder)
		f, stop := runFeed(t, p, Point{Topic: "p", Format: Plain, Filter: Filter{MinInterval: 10 * time.Second}})
		defer stop()
		f.Emit(number(0))
		synctest.Wait()
		for i := range 5 {
			time.Sleep(time.Second)
			f.Emit(number(float64(i + 1)))
		}
		synctest.Wait()
		if got := p.payloads("p"); got != "0" {
			t.Errorf("within the interval: %q, want the first only", got)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := p.payloads("p"); got != "5" {
			t.Errorf("at the end of the interval: %q, want the newest", got)
		}
		if s := f.Stats(); s.Held != 4 || s.Coalesced != 0 || s.Published != 2 {
			t.Errorf("stats %+v, want 4 held by the interval", s)
		}
	})
}

// P4: a slow publisher costs the older readings of a point, they are counted, and no other
// point's newest is lost.
func TestFeedCoalescesForASlowPublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &recorder{gate: make(chan struct{})}
		f, stop := runFeed(t, p, Point{Topic: "a", Format: Plain}, Point{Topic: "b", Format: Plain})
		f.Emit(Reading{Point: "a", Value: 0.0})
		synctest.Wait() // Run is inside Publish now
		for i := range 100 {
			f.Emit(Reading{Point: "a", Value: float64(i + 1)})
		}
		f.Emit(Reading{Point: "b", Value: 7.0})
		if s := f.Stats(); s.Coalesced != 99 || s.Waiting != 3 {
			t.Errorf("stats %+v, want 99 coalesced and 3 waiting", s)
		}
		close(p.gate)
		stop()
		if a, b := p.payloads("a"), p.payloads("b"); a != "0 100" || b != "7" {
			t.Errorf("published a %q and b %q, want the first and the newest, and 7", a, b)
		}
		balanced(t, f.Stats())
	})
}

func TestFeedKeepsWhatWasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(recorder)
		log, lines := newLog()
		f, err := NewFeed(p, log, Point{Topic: "p", Format: Plain}, Point{Topic: "q", Format: Plain})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		p.refuse(errors.New("store full"))
		f.Emit(number(1))
		f.Emit(Reading{Point: "q", Value: 9.0})
		time.Sleep(5500 * time.Millisecond)
		f.Emit(number(2))
		p.refuse(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if a, b := p.payloads("p"), p.payloads("q"); a != "2" || b != "9" {
			t.Errorf("published p %q and q %q, want 2 and 9", a, b)
		}
		if n, m := lines.count("not taken"), lines.count("taken again"); n != 1 || m != 1 {
			t.Errorf("logged %d refusals and %d returns, want one each", n, m)
		}
		balanced(t, f.Stats())
		cancel()
		<-done
	})
}

func TestFeedUnknownPoint(t *testing.T) {
	log, _ := newLog()
	f, err := NewFeed(new(recorder), log)
	if err != nil {
		t.Fatal(err)
	}
	f.Emit(number(1))
	if s := f.Stats(); s.Unknown != 1 || s.Waiting != 0 {
		t.Errorf("stats %+v, want 1 unknown", s)
	}
	if _, err := NewFeed(nil, log, Point{Topic: "p"}, Point{Topic: "p"}); err == nil {
		t.Error("two points with one topic were accepted")
	}
}

func balanced(t interface{ Errorf(string, ...any) }, s FeedStats) {
	if s.Readings != s.Unknown+s.Held+s.Coalesced+s.Published+s.Waiting {
		t.Errorf("the counters do not add up: %+v", s)
	}
}

// P4 under any mix of filters, faults, pauses and refusals, and the last thing published is
// always within the deadband of the last thing measured.
func TestFeedBalance(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		filter := Filter{
			Deadband:    rapid.SampledFrom([]float64{0, 0.5, 3}).Draw(rt, "deadband"),
			MinInterval: time.Duration(rapid.IntRange(0, 3).Draw(rt, "interval")) * time.Second,
			Heartbeat:   time.Duration(rapid.IntRange(0, 5).Draw(rt, "heartbeat")) * time.Second,
			Range:       &Range{-5, 5},
		}
		steps := rapid.SliceOfN(rapid.IntRange(-7, 12), 1, 60).Draw(rt, "steps")
		synctest.Test(t, func(t *testing.T) {
			p := new(recorder)
			f, stop := runFeed(t, p, Point{Topic: "p", Format: Plain, Filter: filter})
			last := ""
			for _, s := range steps {
				switch {
				case s <= 7:
					f.Emit(number(float64(s)))
					last = fmt.Sprint(s)
				case s == 8:
					p.refuse(errors.New("no"))
				case s == 9:
					p.refuse(nil)
				default:
					time.Sleep(time.Duration(s-9) * time.Second)
				}
				balanced(rt, f.Stats())
			}
			p.refuse(nil)
			stop()
			s := f.Stats()
			balanced(rt, s)
			sent := p.take("p")
			if s.Waiting != 0 || int(s.Published) != len(sent) {
				rt.Errorf("%d messages, stats %+v", len(sent), s)
			}
			if last == "" {
				return
			}
			var want, got float64
			fmt.Sscan(last, &want)
			end := sent[len(sent)-1].payload
			if outside := want < -5 || want > 5; outside != (end == "") {
				rt.Errorf("last measured %v, last published %q", want, end)
			} else if !outside {
				fmt.Sscan(end, &got)
				if d := math.Abs(got - want); d > 0 && d >= filter.Deadband {
					rt.Errorf("last measured %v, last published %v, deadband %v", want, got, filter.Deadband)
				}
			}
		})
	})
}

type driverFunc func(context.Context, func(Reading)) error

func (f driverFunc) Run(ctx context.Context, emit func(Reading)) error { return f(ctx, emit) }

// A driver's panic costs its points their quality; it is started again, and nothing else ends.
func TestSourceSurvivesAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, lines := newLog()
		ctx, cancel := context.WithCancel(t.Context())
		starts := 0
		s := Source{Name: "serial X", Points: []string{"a", "b"}, Driver: driverFunc(func(ctx context.Context, emit func(Reading)) error {
			if starts++; starts == 1 {
				panic("index out of range")
			}
			<-ctx.Done()
			return nil
		})}
		var got []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.Run(ctx, func(r Reading) { got = append(got, fmt.Sprintf("%s %v %v", r.Point, r.Quality, r.Err)) }, log)
		}()
		time.Sleep(restartDelay + time.Second)
		cancel()
		<-done
		if want := "[a bad serial X: fault in the driver: index out of range b bad serial X: fault in the driver: index out of range]"; fmt.Sprint(got) != want {
			t.Errorf("got %v", got)
		}
		if starts != 2 || lines.count("driver stopped") != 1 {
			t.Errorf("%d starts, %d log lines", starts, lines.count("driver stopped"))
		}
	})
}

func TestSourceGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, _ := newLog()
		var got []Reading
		Source{Name: "x", Points: []string{"a"}, Driver: driverFunc(func(context.Context, func(Reading)) error {
			return errors.New("no such chip")
		})}.Run(t.Context(), func(r Reading) { got = append(got, r) }, log)
		if len(got) != 1 || got[0].Quality != Bad || got[0].Err.Error() != "x: no such chip" {
			t.Errorf("got %v, want one bad reading", got)
		}
	})
}
