package sensors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A relay is an actuator on a test bench: its level is what the hardware has, whatever was
// written, and every call can be made to fail, hang or panic.
type relay struct {
	safeLevel Value

	mu       sync.Mutex
	level    Value
	writes   []Value
	safed    int
	writeErr error
	readErr  error
	safeErr  error
	ignore   bool          // writes do nothing, as with a welded contact
	hang     chan struct{} // Write waits for it, whatever its context says
	hangSafe chan struct{} // so does MakeSafe
	crash    bool          // Write panics
}

func (r *relay) Write(_ context.Context, v Value) error {
	if r.hang != nil {
		<-r.hang
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes = append(r.writes, v)
	if r.crash {
		panic("nil map")
	}
	if r.writeErr == nil && !r.ignore {
		r.level = v
	}
	return r.writeErr
}

func (r *relay) Read(context.Context) (Value, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.readErr != nil {
		return nil, r.readErr
	}
	return r.level, nil
}

func (r *relay) MakeSafe(context.Context) error {
	if r.hangSafe != nil {
		<-r.hangSafe
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.safeErr != nil {
		return r.safeErr
	}
	r.safed++
	r.level = r.safeLevel
	return nil
}

// set changes the relay under its lock.
func (r *relay) set(f func(*relay)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

func (r *relay) now() (level Value, writes, safed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.level, len(r.writes), r.safed
}

// A bench is a running desk inside a synctest bubble.
type bench struct {
	*testing.T
	*Desk
	pub  *recorder
	logs *logs
	stop func() error
}

func newBench(t *testing.T, outputs ...Output) *bench {
	t.Helper()
	log, lines := newLog()
	d, err := NewDesk(log, outputs...)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, Desk: d, pub: new(recorder), logs: lines}
	ctx, cancel := context.WithCancel(t.Context())
	if err := d.MakeSafe(ctx); err != nil {
		t.Logf("at start: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, b.pub) }()
	b.stop = sync.OnceValue(func() error { cancel(); return <-done })
	synctest.Wait()
	return b
}

// vent is a switch with the words open and closed, safe when closed.
func vent(r *relay) Output {
	r.safeLevel = false
	return Output{Point: "vent", Actuator: r, Kind: Switch, Words: Words{On: "open", Off: "closed"}}
}

func (b *bench) send(payload string) {
	b.Handle(Command{Point: "vent", Payload: []byte(payload)})
	synctest.Wait()
}

// result takes the results of a point and returns them as "outcome reason", one by one.
func (b *bench) results(point string) []string {
	b.Helper()
	var all []string
	for _, m := range b.pub.take(point + "/result") {
		if m.retain {
			b.Error("a result was retained")
		}
		var r struct{ ID, Result, Reason string }
		if err := json.Unmarshal([]byte(m.payload), &r); err != nil {
			b.Fatalf("result %s: %v", m.payload, err)
		}
		all = append(all, strings.TrimSpace(r.ID+" "+r.Result+" "+r.Reason))
	}
	return all
}

// states takes the states of a point and returns their values, bad ones as their reason.
func (b *bench) states(point string) string {
	b.Helper()
	var all []string
	for _, m := range b.pub.take(point + "/state") {
		if !m.retain {
			b.Error("a state was not retained")
		}
		var r struct {
			Value          any
			Quality, Error string
		}
		if err := json.Unmarshal([]byte(m.payload), &r); err != nil {
			b.Fatalf("state %s: %v", m.payload, err)
		}
		if r.Quality != "good" {
			r.Value = r.Error
		}
		all = append(all, fmt.Sprint(r.Value))
	}
	return strings.Join(all, ", ")
}

// expect fails unless the results since the last look contain exactly these, each a part of one.
func (b *bench) expect(point string, want ...string) {
	b.Helper()
	got := b.results(point)
	ok := len(got) == len(want)
	for i := range min(len(got), len(want)) {
		ok = ok && strings.Contains(got[i], want[i])
	}
	if !ok {
		b.Errorf("results %q, want %q", got, want)
	}
}

func (b *bench) expectState(want string) {
	b.Helper()
	if got := b.states("vent"); got != want {
		b.Errorf("states %q, want %q", got, want)
	}
}

func TestDeskRunsACommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(relay)
		b := newBench(t, vent(r))
		defer b.stop()
		b.expectState("closed")
		b.Handle(Command{Point: "vent", Payload: []byte(`{"value":"open","id":"c-1"}`)})
		synctest.Wait()
		sent := b.pub.take("")
		if len(sent) != 2 || sent[0].topic != "vent/state" || sent[1].topic != "vent/result" {
			t.Fatalf("sent %v, want the state and then the result", sent)
		}
		if want := `{"id":"c-1","result":"done","requested":"open","measured":"open"}`; sent[1].payload != want {
			t.Errorf("result %s, want %s", sent[1].payload, want)
		}
		if s := b.Stats(); s.Done != 1 || s.Commands != 1 || s.Waiting != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestDeskUnderstands(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		kind    Kind
		payload string
		want    Value // nil: refused
		reason  string
	}{
		{Switch, "open", true, ""},
		{Switch, " OPEN\n", true, ""},
		{Switch, "closed", false, ""},
		{Switch, "on", true, ""},
		{Switch, "off", false, ""},
		{Switch, "TRUE", true, ""},
		{Switch, "0", false, ""},
		{Switch, `{"value":true}`, true, ""},
		{Switch, `{"value":1}`, true, ""},
		{Switch, `{"value":"closed","id":7}`, false, ""},
		{Switch, "", nil, "neither open nor closed"},
		{Switch, "2", nil, "neither open nor closed"},
		{Switch, "openn", nil, "neither open nor closed"},
		{Switch, `{"value":{"on":1}}`, nil, "no \"value\""},
		{Switch, `{"value":null}`, nil, "no \"value\""},
		{Switch, `{"state":"on"}`, nil, "no \"value\""},
		{Switch, `{"value":`, nil, "not valid JSON"},
		{Switch, `{"value":"on","ts":"yesterday"}`, nil, "RFC 3339"},
		{Switch, `{"value":"on","ts":-1}`, nil, "RFC 3339"},
		{Switch, `{"value":"on","ts":1e300}`, nil, "RFC 3339"},
		{Number, "42", 42.0, ""},
		{Number, ` {"value":42.5}`, 42.5, ""},
		{Number, `{"value":"42"}`, 42.0, ""},
		{Number, "100", 100.0, ""},
		{Number, "100.1", nil, "100.1 % is above 100 %"},
		{Number, "NaN", nil, "not a number"},
		{Number, "inf", nil, "not a number"},
		{Number, "1e999", nil, "not a number"},
		{Text, "hello", "hello", ""},
		{Text, `{"value":""}`, "", ""},
		{Text, "\xff", "\uFFFD", ""},
		{Text, strings.Repeat("x", maxCommand+1), nil, "at most 4096"},
	} {
		o := Output{Kind: tt.kind, Words: Words{On: "open", Off: "closed"}, Unit: "%", Range: &Range{0, 100}, MaxAge: DefaultMaxAge}
		r, err := parseCommand(Command{Payload: []byte(tt.payload)}, &o, now, nil)
		switch {
		case tt.want != nil && (err != nil || r.value != tt.want):
			t.Errorf("%.50q: %v, %v, want %v", tt.payload, r.value, err, tt.want)
		case tt.want == nil && (err == nil || !strings.Contains(err.Error(), tt.reason)):
			t.Errorf("%.50q: error %v, want %q", tt.payload, err, tt.reason)
		}
	}
}

func FuzzCommand(f *testing.F) {
	for _, s := range []string{"on", "1", `{"value":"open","id":"x","ts":1780000000}`, `{"value":[]}`, `{"id":{}}`, `{"ts":"2026-11-21T08:00:00Z","value":1}`} {
		f.Add([]byte(s), []byte("c"))
	}
	f.Fuzz(func(t *testing.T, payload, correlation []byte) {
		for _, k := range []Kind{Number, Switch, Text} {
			o := Output{Kind: k, MaxAge: DefaultMaxAge}
			r, err := parseCommand(Command{Payload: payload, Correlation: correlation}, &o, time.Now(), nil)
			if err == nil && sound(r.value) != nil {
				t.Errorf("%q became %v", payload, r.value)
			}
			if len(r.id) > 2*maxID || !json.Valid(encode(jsonResult{ID: r.id, Requested: r.value})) {
				t.Errorf("id %q", r.id)
			}
		}
	})
}

// P6: a stale, retained or queued command never moves an output.
func TestDeskNeverRunsAnOldCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the bubble's clock starts in the year 2000
		time.Sleep(time.Until(time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)))
		r := new(relay)
		b := newBench(t, vent(r))
		defer b.stop()
		now := time.Now()
		ts := func(age time.Duration) []byte {
			return fmt.Appendf(nil, `{"value":"open","id":"x","ts":%q}`, now.Add(-age).Format(time.RFC3339))
		}
		for _, tt := range []struct {
			name    string
			command Command
			want    string
		}{
			{"retained", Command{Payload: []byte("open"), Retained: true}, "refused a retained command is an old command"},
			{"waited", Command{Payload: []byte("open"), Age: 31 * time.Second}, "expired it is 31s old; at most 30s"},
			{"sent long ago", Command{Payload: ts(time.Hour)}, "x expired it is 1h0m0s old"},
			{"sent in milliseconds", Command{Payload: fmt.Appendf(nil, `{"value":1,"ts":%d}`, now.Add(-time.Minute).UnixMilli())}, "expired it is 1m0s old"},
			{"sent in seconds", Command{Payload: fmt.Appendf(nil, `{"value":1,"ts":%d}`, now.Add(-time.Minute).Unix())}, "expired it is 1m0s old"},
			{"sent in the future", Command{Payload: ts(-time.Hour)}, "x refused ts is 1h0m0s ahead"},
			{"correlation", Command{Payload: []byte("open"), Retained: true, Correlation: []byte("k9")}, "k9 refused"},
			{"binary correlation", Command{Payload: []byte("open"), Retained: true, Correlation: []byte{0xff, 1}}, "ff01 refused"},
		} {
			tt.command.Point = "vent"
			b.Handle(tt.command)
			synctest.Wait()
			if _, writes, _ := r.now(); writes != 0 {
				t.Fatalf("%s: the output was moved", tt.name)
			}
			b.expect("vent", tt.want)
		}
		b.Handle(Command{Point: "vent", Payload: ts(10 * time.Second), Age: 29 * time.Second})
		synctest.Wait()
		b.expect("vent", "done")
	})
}

// A board whose clock is not set can judge a command by its ts only if that is before any time
// which it can be now.
func TestDeskWithoutAClock(t *testing.T) {
	earliest := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	unset := func(time.Time) (time.Time, bool) { return earliest, false }
	o := vent(new(relay))
	o.setDefaults()
	for _, tt := range []struct {
		ts      string
		expired bool
	}{
		{"2026-11-21T09:00:00Z", false},
		{"2026-11-21T07:59:59Z", false},
		{"2026-11-21T07:00:00Z", true},
	} {
		c := Command{Payload: fmt.Appendf(nil, `{"value":"open","ts":%q}`, tt.ts)}
		r, err := parseCommand(c, &o, time.Now(), unset)
		if err != nil || (r.age > o.MaxAge) != tt.expired {
			t.Errorf("%s: %v, age %v; want expired = %t", tt.ts, err, r.age, tt.expired)
		}
	}
}

// A command that waits behind a stuck wire expires there; another bus is not delayed.
func TestDeskStuckBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck, same, other := &relay{hang: make(chan struct{})}, new(relay), new(relay)
		outputs := []Output{vent(stuck), vent(same), vent(other)}
		outputs[0].Bus, outputs[1].Bus = "rs485", "rs485"
		outputs[1].Point, outputs[2].Point = "fan", "pump"
		b := newBench(t, outputs...)
		b.send("open")
		for _, p := range []string{"fan", "pump"} {
			b.Handle(Command{Point: p, Payload: []byte("on")})
		}
		synctest.Wait()
		b.expect("pump", "done")
		b.expect("fan")
		b.send("closed") // waits behind the first
		b.send("open")   // and is superseded
		b.expect("vent", "superseded")
		if s := b.Stats(); s.Waiting != 3 {
			t.Errorf("stats %+v, want 3 waiting", s)
		}
		time.Sleep(31 * time.Second)
		close(stuck.hang)
		synctest.Wait()
		b.expect("vent", "done", "expired it is 31s old")
		b.expect("fan", "expired")
		if _, writes, _ := same.now(); writes != 0 {
			t.Error("the expired command was written")
		}
		b.stop()
	})
}

// State never echoes the command: a welded contact stays what it measures.
func TestDeskStateIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &relay{ignore: true}
		b := newBench(t, vent(r))
		defer b.stop()
		b.states("vent")
		b.send("open")
		b.expect("vent", "failed written, but it measures closed")
		b.expectState("closed")
		r.set(func(r *relay) { r.writeErr = errors.New("no acknowledgement") })
		b.send("open")
		b.expect("vent", "failed no acknowledgement")
		r.set(func(r *relay) { r.writeErr, r.readErr = nil, ErrNotMeasured })
		b.send("open")
		b.expect("vent", "done written; nothing measures this output")
		b.expectState("closed, nothing measures this output")
	})
}

// Someone switches by hand, a wire breaks and heals: one state for each change, none between.
func TestDeskReadsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(relay)
		b := newBench(t, vent(r))
		defer b.stop()
		b.states("vent")
		for _, step := range []struct {
			change func(*relay)
			want   string
		}{
			{func(*relay) {}, ""},
			{func(r *relay) { r.level = true }, "open"},
			{func(r *relay) { r.readErr = errors.New("wire broken") }, "wire broken"},
			{func(r *relay) { r.readErr = errors.New("wire still broken") }, ""},
			{func(r *relay) { r.readErr = nil }, "open"},
		} {
			r.set(step.change)
			time.Sleep(3 * DefaultRefresh)
			synctest.Wait()
			b.expectState(step.want)
		}
		if n := b.logs.count("cannot be read"); n != 1 {
			t.Errorf("%d log lines for one fault", n)
		}
	})
}

func TestDeskDwell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := vent(new(relay))
		o.MinOn, o.MinOff = time.Minute, 2*time.Minute
		b := newBench(t, o)
		defer b.stop()
		b.send("open")
		b.expect("vent", "refused it stays closed for at least 2m0s")
		time.Sleep(2 * time.Minute)
		b.send("open")
		b.expect("vent", "done")
		time.Sleep(50 * time.Second)
		b.send("open") // nothing changes, nothing is refused
		b.send("closed")
		b.expect("vent", "done", "refused it stays open for at least 1m0s; try again in 10s")
		time.Sleep(10 * time.Second)
		b.send("closed")
		b.expect("vent", "done")
	})
}

// P6: when commands stop coming, the output goes safe.
func TestDeskLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(relay)
		o := vent(r)
		o.Lease, o.MinOn = 2*time.Minute, time.Hour // safety does not ask for dwell times
		b := newBench(t, o)
		defer b.stop()
		b.send(`{"value":"open","id":"a"}`)
		time.Sleep(100 * time.Second)
		b.send(`{"value":"open","id":"b"}`)
		b.send("closed") // refused: renews nothing
		b.expect("vent", "a done", "b done", "refused")
		time.Sleep(119 * time.Second)
		synctest.Wait()
		if level, _, _ := r.now(); level != true {
			t.Fatal("safe before the renewed lease ran out")
		}
		b.states("vent")
		time.Sleep(time.Second)
		synctest.Wait()
		b.expect("vent", "b expired driven safe: no command for 2m0s")
		b.expectState("closed")
		_, _, safed := r.now()
		time.Sleep(time.Hour)
		b.expect("vent")
		if _, _, again := r.now(); again != safed {
			t.Error("driven safe again without a lease")
		}
	})
}

// A failed command does not renew the lease of the one that holds.
func TestDeskFailureRenewsNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(relay)
		o := vent(r)
		o.Lease = time.Minute
		b := newBench(t, o)
		defer b.stop()
		b.send("open")
		time.Sleep(50 * time.Second)
		r.set(func(r *relay) { r.writeErr = errors.New("noise") })
		b.send("open")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if level, _, _ := r.now(); level != false {
			t.Error("the lease was renewed by a failure")
		}
	})
}

func TestDeskLinkLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(relay)
		o := vent(r)
		o.Link, o.LinkLoss = "cloud", time.Minute
		b := newBench(t, o)
		defer b.stop()
		b.Link("cloud", true)
		b.send("open")
		b.Link("other", false)
		b.Link("cloud", false)
		time.Sleep(59 * time.Second)
		b.Link("cloud", true) // back in time
		time.Sleep(time.Hour)
		b.expect("vent", "done")
		b.Link("cloud", false)
		time.Sleep(30 * time.Second)
		b.Link("cloud", false) // told twice, lost once
		time.Sleep(30 * time.Second)
		synctest.Wait()
		b.expect("vent", "expired driven safe: cloud has been down for 1m0s")
		if level, _, _ := r.now(); level != false {
			t.Error("not safe")
		}
		b.send("open") // local control goes on
		time.Sleep(time.Hour)
		if level, _, _ := r.now(); level != true {
			t.Error("driven safe a second time for one loss")
		}
	})
}

// What cannot be driven safe is told once and tried until it is.
func TestDeskKeepsTryingToBeSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &relay{level: true, safeErr: errors.New("port missing")}
		b := newBench(t, vent(r))
		defer b.stop()
		time.Sleep(14500 * time.Millisecond) // between two read-backs
		b.expect("vent", "failed cannot be driven safe (start): port missing")
		b.expectState("open")
		r.set(func(r *relay) { r.safeErr = nil })
		time.Sleep(safeRetry)
		synctest.Wait()
		b.expectState("closed")
		if n := b.logs.count("level=ERROR"); n != 1 {
			t.Errorf("%d errors logged, want 1", n)
		}
	})
}

func TestDeskPanicGoesSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, other := &relay{level: true, crash: true}, new(relay)
		o := vent(other)
		o.Point = "fan"
		b := newBench(t, vent(r), o)
		defer b.stop()
		r.set(func(r *relay) { r.level = true })
		b.send("open")
		b.expect("vent", "failed fault in the driver: nil map", "expired driven safe: fault in the driver")
		if level, _, safed := r.now(); level != false || safed != 2 {
			t.Errorf("level %v, made safe %d times", level, safed)
		}
		b.Handle(Command{Point: "fan", Payload: []byte("on")})
		synctest.Wait()
		b.expect("fan", "done")
	})
}

// P6: at the end everything is safe within a second, though one wire hangs; its own call, which
// comes too late, is followed by another MakeSafe.
func TestDeskStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck, held, good := &relay{hang: make(chan struct{})}, new(relay), new(relay)
		outputs := []Output{vent(stuck), vent(held), vent(good)}
		outputs[1].Point, outputs[2].Point = "fan", "pump"
		b := newBench(t, outputs...)
		held.hangSafe = make(chan struct{})
		b.Handle(Command{Point: "pump", Payload: []byte("on")})
		b.Handle(Command{Point: "fan", Payload: []byte("on")})
		b.send("open")
		b.send("open") // waits
		b.pub.take("")

		begin := time.Now()
		err := b.stop()
		if took := time.Since(begin); took > safeTime {
			t.Errorf("stop took %s", took)
		}
		if err == nil || !strings.Contains(err.Error(), "output fan: cannot be driven safe: no answer within 1s") {
			t.Errorf("error %v does not tell of the fan", err)
		}
		b.expect("vent", "refused the gateway is stopping")
		if got := b.states("pump"); got != "closed" {
			t.Errorf("last state of the pump %q", got)
		}
		if got := b.states("fan"); !strings.Contains(got, "no answer") {
			t.Errorf("last state of the fan %q, want that it is not known", got)
		}
		b.send("open")
		b.expect("vent", "refused the gateway is stopping")

		close(stuck.hang) // the late write
		close(held.hangSafe)
		synctest.Wait()
		if level, writes, _ := stuck.now(); level != false || writes != 1 {
			t.Errorf("after the late write the vent is %v (%d writes), want closed", level, writes)
		}
		if got := b.states("vent"); !strings.HasSuffix(got, "closed") {
			t.Errorf("states %q after the late write, want closed at last", got)
		}
	})
}

// P6: MakeSafe needs neither Run nor a publisher, and takes a second at most.
func TestDeskMakeSafeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, _ := newLog()
		good, held := &relay{level: true}, &relay{level: true, hangSafe: make(chan struct{})}
		o := vent(held)
		o.Point = "fan"
		d, err := NewDesk(log, vent(good), o)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		err = d.MakeSafe(t.Context())
		if took := time.Since(begin); took > safeTime || err == nil {
			t.Errorf("took %s, error %v", took, err)
		}
		if level, _, _ := good.now(); level != false {
			t.Error("not safe")
		}
		d.Handle(Command{Point: "vent", Payload: []byte("on")})
		if s := d.Stats(); s.Refused != 1 {
			t.Errorf("a command before Run: %+v", s)
		}
		close(held.hangSafe)
		synctest.Wait()
	})
}

func TestDeskResendsAStateThatWasNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, vent(new(relay)))
		defer b.stop()
		b.states("vent")
		b.pub.refuse(errors.New("store full"))
		b.send("open")
		time.Sleep(time.Minute)
		b.pub.refuse(nil)
		time.Sleep(time.Minute)
		b.expectState("open")
	})
}

func TestDeskUnknownAndDouble(t *testing.T) {
	log, _ := newLog()
	if _, err := NewDesk(log, Output{Point: "a"}, Output{Point: "a"}); err == nil {
		t.Error("two outputs with one point were accepted")
	}
	d, err := NewDesk(log)
	if err != nil {
		t.Fatal(err)
	}
	d.Handle(Command{Point: "a"})
	if s := d.Stats(); s.Unknown != 1 || s.Commands != 0 {
		t.Errorf("stats %+v", s)
	}
}
