package broker

import (
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gateway/broker/packet"
)

// A board without a battery takes a client in before it knows what day it is.
func TestExpiryAfterTheTimeIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc, peer := net.Pipe()
		defer peer.Close()
		var l link
		l.out.init(nc, &Server{})
		var slow atomic.Int64
		slow.Store(int64(56 * 365 * 24 * time.Hour)) // the clock begins in 1970 or so
		now := func() time.Time { return time.Now().Add(-time.Duration(slow.Load())) }
		timer := expireAt(&l, time.Now().Add(time.Hour), now)
		time.Sleep(2 * time.Hour)
		if l.cause.Load() != nil {
			t.Fatal("a login has expired by a clock that it does not expire by")
		}
		slow.Store(0)
		time.Sleep(expireEvery)
		synctest.Wait()
		if e := l.cause.Load(); e == nil || e.Reason != packet.MaximumConnectTime {
			t.Errorf("the connection goes on: %v", e)
		}
		if timer.Stop() {
			t.Error("the time is looked at after the end")
		}
		l.flushers.Wait()
	})
}
