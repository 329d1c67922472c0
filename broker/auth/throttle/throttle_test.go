package throttle_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gateway/broker/auth"
	"gateway/broker/auth/throttle"
)

func attempt(client, user, from string) *auth.Attempt {
	return &auth.Attempt{ClientID: client, Username: user, Addr: &net.TCPAddr{IP: net.ParseIP(from), Port: 1}}
}

// try makes an attempt, and reports whether it was let pass.
func try(t *throttle.Throttle, a *auth.Attempt, o throttle.Outcome) bool {
	if err := t.Enter(a); err != nil {
		if !errors.Is(err, auth.ErrTooOften) {
			panic(err)
		}
		return false
	}
	t.Done(a, o)
	return true
}

// passes makes an attempt that changes nothing.
func passes(t *throttle.Throttle, a *auth.Attempt) bool { return try(t, a, throttle.Undecided) }

// Each failure too many doubles the delay, up to a bound; quiet or a success ends it.
func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Failures: 3, Delay: 10 * time.Second})
		a := attempt("c", "u", "192.0.2.1")
		var delays []time.Duration
		for range 8 {
			if !try(th, a, throttle.Refused) {
				t.Fatal("held off when the delay is over")
			}
			began := time.Now()
			for !passes(th, a) {
				time.Sleep(100 * time.Millisecond)
			}
			delays = append(delays, time.Since(began).Round(time.Second))
		}
		if got := fmt.Sprint(delays); got != "[0s 0s 1s 2s 4s 8s 10s 10s]" {
			t.Errorf("delays of %s", got)
		}
		time.Sleep(21 * time.Minute)
		if !try(th, a, throttle.Refused) || !passes(th, a) {
			t.Error("it is not forgotten")
		}
		for range 3 {
			try(th, a, throttle.Refused)
		}
		time.Sleep(10 * time.Second)
		if !try(th, a, throttle.Admitted) {
			t.Fatal("held off when the delay is over")
		}
		try(th, a, throttle.Refused)
		if !passes(th, a) {
			t.Error("a success does not end it")
		}
	})
}

// By what failures are counted, and whom that holds off.
func TestSubjects(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fails func(i int) *auth.Attempt
		count int
		other *auth.Attempt
		held  bool
	}{
		{"the same user from everywhere", func(i int) *auth.Attempt { return attempt("", "u", fmt.Sprintf("192.0.2.%d", i)) }, 5, attempt("new", "u", "198.51.100.1"), true},
		{"the same client from everywhere", func(i int) *auth.Attempt { return attempt("c", "", fmt.Sprintf("192.0.2.%d", i)) }, 5, attempt("c", "new", "198.51.100.1"), true},
		{"one address, all names", func(i int) *auth.Attempt { return attempt(fmt.Sprint("c", i), fmt.Sprint("u", i), "192.0.2.1") }, 20, attempt("new", "new", "192.0.2.1"), true},
		{"not so many from one address", func(i int) *auth.Attempt { return attempt(fmt.Sprint("c", i), fmt.Sprint("u", i), "192.0.2.1") }, 19, attempt("new", "new", "192.0.2.1"), false},
		{"this machine, all names", func(i int) *auth.Attempt { return attempt(fmt.Sprint("c", i), fmt.Sprint("u", i), "127.0.0.1") }, 50, attempt("new", "new", "127.0.0.1"), false},
		{"others", func(int) *auth.Attempt { return attempt("c", "u", "192.0.2.1") }, 5, attempt("d", "v", "192.0.2.1"), false},
		{"one network of IPv6, all names", func(i int) *auth.Attempt {
			return attempt(fmt.Sprint("c", i), fmt.Sprint("u", i), fmt.Sprintf("2001:db8:1:2:%x::1", i))
		}, 20, attempt("new", "new", "2001:db8:1:2:ffff::1"), true},
		{"neighbours of that", func(i int) *auth.Attempt {
			return attempt(fmt.Sprint("c", i), fmt.Sprint("u", i), fmt.Sprintf("2001:db8:1:2:%x::1", i))
		}, 20, attempt("new", "new", "2001:db8:1:3::1"), false},
		{"the site's own network, all names", func(i int) *auth.Attempt {
			return attempt(fmt.Sprint("c", i), fmt.Sprint("u", i), fmt.Sprintf("fd00::%x", i))
		}, 20, attempt("new", "new", "fd00::ffff"), false},
		{"IPv4 as IPv6", func(i int) *auth.Attempt { return attempt(fmt.Sprint("c", i), fmt.Sprint("u", i), "::ffff:192.0.2.1") }, 20, attempt("new", "new", "192.0.2.1"), true},
	} {
		th := throttle.New(throttle.Limits{})
		for i := range tt.count {
			if !try(th, tt.fails(i), throttle.Refused) {
				t.Fatalf("%s: held off after %d", tt.name, i)
			}
		}
		if passes(th, tt.other) == tt.held {
			t.Errorf("%s: held off: %t", tt.name, !tt.held)
		}
	}
}

// Who has logged in before is not kept out by others, even ones with the same name behind the same
// address, until they have failed as he does.
func TestTrust(t *testing.T) {
	th := throttle.New(throttle.Limits{Failures: 3})
	dev := attempt("c", "u", "192.0.2.1")
	if !try(th, dev, throttle.Admitted) {
		t.Fatal("held off")
	}
	for i := range 12 {
		try(th, attempt("c", "u", fmt.Sprintf("198.51.100.%d", i)), throttle.Refused)
		try(th, attempt(fmt.Sprint(i), "", "192.0.2.1"), throttle.Refused)
	}
	if passes(th, attempt("c", "u", "198.51.100.99")) || passes(th, attempt("x", "y", "192.0.2.1")) {
		t.Error("the attack is not held off")
	}
	if !passes(th, dev) {
		t.Error("the device is kept out")
	}
	if err := th.Address(netip.MustParseAddr("192.0.2.1")); err != nil {
		t.Errorf("the device's address is kept out: %v", err)
	}
	for i := range 3 {
		if !try(th, dev, throttle.Refused) {
			t.Errorf("trust ended after %d", i)
		}
	}
	if passes(th, dev) {
		t.Error("trust does not end")
	}
}

// An address from which nobody has logged in is turned away at once.
func TestAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Failures: 1, Delay: 5 * time.Second})
		from := netip.MustParseAddr("192.0.2.1")
		for i := range 4 {
			if err := th.Address(from); err != nil {
				t.Errorf("%d: %v", i, err)
			}
			try(th, attempt(fmt.Sprint(i), "", "192.0.2.1"), throttle.Refused)
		}
		if err := th.Address(from); !errors.Is(err, auth.ErrTooOften) {
			t.Errorf("%v", err)
		}
		if th.Address(netip.MustParseAddr("192.0.2.2")) != nil || th.Address(netip.Addr{}) != nil {
			t.Error("others are kept out")
		}
		time.Sleep(5 * time.Second)
		if err := th.Address(from); err != nil {
			t.Errorf("after the delay: %v", err)
		}
	})
}

// Many attempts at the same time are no way around the delay, and no harm to a user with many
// devices.
func TestConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Failures: 3})
		for i := range 100 {
			if th.Enter(attempt(fmt.Sprint(i), "shared", fmt.Sprintf("192.0.2.%d", i))) != nil {
				t.Fatalf("%d devices at a time are held off", i)
			}
		}
		for i := range 100 {
			th.Done(attempt(fmt.Sprint(i), "shared", fmt.Sprintf("192.0.2.%d", i)), throttle.Admitted)
		}
		a := attempt("", "guessed", "127.0.0.1")
		for range 3 {
			try(th, a, throttle.Refused)
		}
		time.Sleep(time.Second)
		if th.Enter(a) != nil {
			t.Fatal("held off after the delay")
		}
		if th.Enter(a) == nil {
			t.Error("two at a time")
		}
	})
}

// Nobody tries more passwords at the same time than may fail.
func TestGuessesAtOnce(t *testing.T) {
	th := throttle.New(throttle.Limits{Failures: 3})
	let := 0
	for i := range 100 {
		if th.Enter(attempt(fmt.Sprint(i), "anna", "192.0.2.1")) == nil {
			let++
		}
	}
	if let != 12 {
		t.Errorf("%d attempts at a time, want 12", let)
	}
	if !passes(th, attempt("c", "anna", "192.0.2.2")) || !passes(th, attempt("c", "ben", "192.0.2.1")) {
		t.Error("others are held off")
	}
	for i := range let {
		th.Done(attempt(fmt.Sprint(i), "anna", "192.0.2.1"), throttle.Undecided)
	}
	if !passes(th, attempt("c", "anna", "192.0.2.1")) {
		t.Error("held off when nobody tries any more")
	}
}

// An administrator whose program has another client identifier each time is not kept out by a stranger
// who guesses at his name.
func TestTrustedUser(t *testing.T) {
	th := throttle.New(throttle.Limits{Failures: 3})
	if !try(th, attempt("mqttjs_1", "admin", "192.0.2.1"), throttle.Admitted) {
		t.Fatal("held off")
	}
	for i := range 12 {
		try(th, attempt(fmt.Sprint(i), "admin", fmt.Sprintf("198.51.100.%d", i)), throttle.Refused)
	}
	if passes(th, attempt("x", "admin", "198.51.100.99")) {
		t.Error("the stranger is not held off")
	}
	if !passes(th, attempt("mqttjs_2", "admin", "192.0.2.1")) {
		t.Error("the administrator is kept out")
	}
	for i := range 3 { // somebody beside him
		try(th, attempt(fmt.Sprint("beside", i), "admin", "192.0.2.1"), throttle.Refused)
	}
	if passes(th, attempt("mqttjs_3", "admin", "192.0.2.1")) {
		t.Error("trust does not end")
	}
}

// A client that connects without end is held off, one that comes back now and then is not.
func TestFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Connects: 10})
		a, b := attempt("c", "u", "192.0.2.1"), attempt("d", "u", "192.0.2.1")
		for i := range 11 {
			if !try(th, a, throttle.Admitted) {
				t.Fatalf("held off after %d", i)
			}
		}
		if try(th, a, throttle.Admitted) || !try(th, b, throttle.Admitted) {
			t.Error("it may connect, or another may not")
		}
		time.Sleep(10 * time.Second)
		for i := range 100 {
			if !try(th, a, throttle.Admitted) {
				t.Fatalf("held off after %d", i)
			}
			time.Sleep(7 * time.Second)
		}
		for i := range 100 {
			if !try(th, attempt("script", "u", "127.0.0.1"), throttle.Admitted) {
				t.Fatalf("a client of this machine is held off after %d", i)
			}
		}
	})
}

// However many there are, the memory is bounded.
func TestBounded(t *testing.T) {
	th := throttle.New(throttle.Limits{Names: 1000})
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	storm := func(round int) {
		for i := range 20_000 {
			o := throttle.Refused
			if i%2 == 0 {
				o = throttle.Admitted
			}
			try(th, attempt(fmt.Sprint("client", round, i), fmt.Sprint("user", round, i), fmt.Sprintf("10.%d.%d.%d", round, i>>8, i&255)), o)
		}
	}
	storm(0)
	before := memory()
	storm(1)
	storm(2)
	if after := memory(); after > before+before/4+(256<<10) {
		t.Errorf("%d bytes have become %d", before, after)
	}
	runtime.KeepAlive(th)
}

// Long names take no more memory than others: strangers choose them, and need not fail for it.
func TestLongNames(t *testing.T) {
	th := throttle.New(throttle.Limits{Names: 1000})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 3000 {
		passes(th, attempt("c", fmt.Sprint(i, strings.Repeat("x", 60_000)), "192.0.2.1"))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 2<<20 {
		t.Errorf("%d bytes for 1,000 long names", grown)
	}
	long := strings.Repeat("x", 100)
	for range 10 {
		try(th, attempt("", long+"a", "192.0.2.2"), throttle.Refused)
	}
	if passes(th, attempt("", long+"a", "192.0.2.3")) || !passes(th, attempt("", long+"b", "192.0.2.3")) {
		t.Error("long names are not told apart")
	}
	runtime.KeepAlive(th)
}

// Who is let in whatever name it gives, as on an anonymous listener, has no more guesses by that at
// the password of that name.
func TestPassedIsNoProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Failures: 3})
		a := attempt("c", "anna", "192.0.2.1")
		guesses := 0
		for range 10 {
			if try(th, a, throttle.Refused) {
				guesses++
			}
			try(th, a, throttle.Passed)
		}
		if guesses != 3 {
			t.Errorf("%d guesses, want 3", guesses)
		}
	})
}
