package sensors

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// publishRetry is how long a reading waits after the publisher refused it.
const publishRetry = time.Second

// A Point is one measured quantity and the topic it is published on.
type Point struct {
	Topic  string
	Words  Words // of a switch
	Format Format
	Filter Filter

	// NoRetain publishes readings as passing events. By default the last one is retained, so
	// that whoever subscribes later knows the present state at once, bad quality included.
	NoRetain bool
}

// FeedStats counts what became of the readings. At every instant
//
//	Readings = Unknown + Held + Coalesced + Published + Waiting
type FeedStats struct {
	Readings  int64 // given to Emit
	Unknown   int64 // of a point that the feed does not have: dropped
	Held      int64 // held back by the point's filter
	Coalesced int64 // replaced by a newer one while the publisher was slow or refused
	Published int64
	Waiting   int64 // not published yet
	Bad       int64 // readings that were bad or became so by their filter
	Refusals  int64 // attempts that the publisher refused; the reading is tried again
}

// A Feed publishes readings. It keeps at most one waiting reading per point, the newest.
type Feed struct {
	// Calendar dates the readings. It is set before Run; nil: the machine's clock is right.
	Calendar Calendar

	pub    Publisher
	log    *slog.Logger
	points []*feedPoint // in the order of configuration
	byName map[string]*feedPoint

	// ready holds at most one token: work is waiting. A full channel says so already.
	ready chan struct{}

	refused bool // the publisher's last answer was an error; only Run's goroutine knows

	mu    sync.Mutex // guards the points' states and stats
	stats FeedStats
}

// feedPoint is a Point and what happened to it.
type feedPoint struct {
	Point
	waiting  bool
	next     Reading   // to be published, when waiting
	due      time.Time // not before
	again    bool      // next waits because the publisher refused it, not for the interval
	passed   Reading   // the last one that the filter passed
	passedAt time.Time // zero: none yet
	sentAt   time.Time // when the last one was published
	outside  bool      // the last reading was out of range
	undated  bool      // the last one that was published had no date
}

// NewFeed returns a feed for points; their topics must differ.
func NewFeed(p Publisher, log *slog.Logger, points ...Point) (*Feed, error) {
	f := &Feed{
		pub:    p,
		log:    log,
		byName: make(map[string]*feedPoint, len(points)),
		ready:  make(chan struct{}, 1),
	}
	for _, pt := range points {
		if f.byName[pt.Topic] != nil {
			return nil, fmt.Errorf("feed: two points have the topic %q", pt.Topic)
		}
		fp := &feedPoint{Point: pt}
		f.points = append(f.points, fp)
		f.byName[pt.Topic] = fp
	}
	return f, nil
}

// Emit takes a reading from a driver. It never blocks, and may be called from any goroutine,
// before, during and after Run.
func (f *Feed) Emit(r Reading) {
	now := time.Now()
	if r.At.IsZero() {
		r.At = now
	}
	p := f.byName[r.Point]
	f.mu.Lock()
	f.stats.Readings++
	if p == nil {
		f.stats.Unknown++
		f.mu.Unlock()
		return
	}
	r = p.Filter.apply(r)
	if r.Quality == Bad {
		f.stats.Bad++
	}
	_, outside := r.Err.(*RangeError)
	changed := outside != p.outside
	p.outside = outside
	queued := f.queue(p, r, now)
	f.mu.Unlock()

	if queued {
		select {
		case f.ready <- struct{}{}:
		default:
		}
	}
	if changed && outside {
		f.log.Warn("reading out of range", "point", r.Point, "err", r.Err)
	} else if changed && r.Quality != Bad {
		f.log.Info("reading in range again", "point", r.Point)
	}
}

// queue makes r the next reading of p unless the filter holds it back. The caller has the lock.
func (f *Feed) queue(p *feedPoint, r Reading, now time.Time) bool {
	if !p.passedAt.IsZero() && p.Filter.repeats(p.passed, r, now.Sub(p.passedAt)) && !f.datable(p, now) {
		f.stats.Held++
		return false
	}
	switch {
	case !p.waiting:
		f.stats.Waiting++
		p.due, p.again = now, false
		if free := p.sentAt.Add(p.Filter.MinInterval); !p.sentAt.IsZero() && free.After(now) {
			p.due = free
		}
	case p.due.After(now) && !p.again:
		f.stats.Held++ // by the interval
	default:
		f.stats.Coalesced++
	}
	p.waiting, p.next = true, r
	p.passed, p.passedAt = r, now
	return true
}

// datable reports whether the last reading of a point was published without a date, and the next
// would have one: it is not held back then. The caller has the lock.
func (f *Feed) datable(p *feedPoint, now time.Time) bool {
	if !p.undated {
		return false
	}
	_, known := f.Calendar.date(now)
	return known
}

// Run publishes until ctx ends, and then once more what still waits.
func (f *Feed) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			f.flush(true)
			return nil
		case <-f.ready:
		case <-timer.C:
		}
		if wait, any := f.flush(false); any {
			timer.Reset(wait)
		}
	}
}

// flush publishes what is due, or everything, and returns how long the next waiting reading has
// to wait, if there is one.
func (f *Feed) flush(all bool) (wait time.Duration, any bool) {
	for _, p := range f.points {
		r, ok := f.take(p, all)
		if !ok {
			continue
		}
		_, known := f.Calendar.date(r.At)
		err := f.pub.Publish(p.Topic, payload(r, p.Format, p.Words, f.Calendar), !p.NoRetain)
		f.settle(p, r, !known, err)
		if refused := err != nil; refused != f.refused {
			f.refused = refused
			if refused {
				f.log.Warn("readings are not taken; the newest of each point is kept and tried again", "point", p.Topic, "err", err)
			} else {
				f.log.Info("readings are taken again")
			}
		}
	}
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.points {
		if !p.waiting {
			continue
		}
		if w := p.due.Sub(now); !any || w < wait {
			wait, any = w, true
		}
	}
	return max(wait, 0), any
}

// take removes the waiting reading of p if it is due.
func (f *Feed) take(p *feedPoint, all bool) (Reading, bool) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !p.waiting || !all && p.due.After(now) {
		return Reading{}, false
	}
	p.waiting = false
	return p.next, true
}

// settle records the publisher's answer. A refused reading waits again unless a newer one came.
func (f *Feed) settle(p *feedPoint, r Reading, undated bool, err error) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.stats.Published++
		f.stats.Waiting--
		p.sentAt, p.undated = now, undated
		if free := now.Add(p.Filter.MinInterval); p.waiting && free.After(p.due) {
			p.due = free
		}
		return
	}
	f.stats.Refusals++
	if p.waiting {
		f.stats.Coalesced++
		f.stats.Waiting--
	} else {
		p.waiting, p.next = true, r
	}
	p.due, p.again = now.Add(publishRetry), true
}

// Stats returns the counters.
func (f *Feed) Stats() FeedStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}
