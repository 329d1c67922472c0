package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/warthog618/go-gpiocdev"
	"golang.org/x/sys/unix"

	"gateway/board"
)

const (
	// edgeQueue is how many edges wait for Wait; the kernel keeps as many. When it is full the
	// newest is dropped, and Wait looks at the level itself after the last.
	edgeQueue = 16

	// edgeLimit is how long the kernel is asked for one edge, before it is asked again.
	edgeLimit = time.Minute
)

// A request is one line as the kernel has granted it. Levels are physical: true is high.
type request interface {
	get() (high bool, err error)
	set(high bool) error
	// edge returns the level after the next edge of an input, or os.ErrDeadlineExceeded after
	// limit or an interrupt.
	edge(limit time.Duration) (high bool, err error)
	// interrupt ends an edge that has begun to wait.
	interrupt() error
	close() error
}

// A line is a request with the logic that both ways into the kernel share: polarity, debounce,
// the order of edges, and the end.
type line struct {
	config board.LineConfig

	// mu keeps an ioctl from meeting a descriptor that has just been closed.
	mu      sync.RWMutex
	closed  bool
	request request

	// Of inputs only. One goroutine, watch, takes the kernel's edges and ends with done.
	edges      chan bool // physical levels; see edgeQueue
	stop, done chan struct{}
	fault      error // why watch has ended; valid after done
	last       bool  // the physical level that Wait has told last
}

// Line takes a line. An output has its initial level before it is an output. An input without a
// pull keeps the resistor that the board gives it.
//
// The error is board.ErrBusy if somebody else has the line, and board.ErrGone if it, or its
// chip, is not there. One goroutine at a time may Wait.
func (b *Board) Line(c board.LineConfig) (board.Line, error) {
	p, err := find(c.Name)
	if err != nil {
		return nil, err
	}
	r, err := take(p, c)
	if err != nil {
		return nil, requestFault(p, c.Name, err)
	}
	l, err := newLine(c, r)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("line %s: %w", c.Name, err), r.close())
	}
	return l, nil
}

// take asks periph.io where it is sound, and go-gpiocdev for everything else: a chip that came
// after the start, and the errno of a refusal.
func take(p place, c board.LineConfig) (request, error) {
	if suitsLineSet(p, c) {
		if r, err := requestLineSet(p, c); err == nil {
			return r, nil
		}
	}
	return requestCdev(p, c)
}

func newLine(c board.LineConfig, r request) (*line, error) {
	l := &line{config: c, request: r}
	if c.Output {
		return l, nil
	}
	var err error
	if l.last, err = r.get(); err != nil {
		return nil, err
	}
	l.edges = make(chan bool, edgeQueue)
	l.stop, l.done = make(chan struct{}), make(chan struct{})
	go l.watch()
	return l, nil
}

// Get implements board.Line.
func (l *line) Get() (bool, error) {
	high, err := l.level()
	if err != nil {
		return false, l.err("read", err)
	}
	return high != l.config.ActiveLow, nil
}

func (l *line) level() (high bool, err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return false, os.ErrClosed
	}
	return l.request.get()
}

// Set implements board.Line.
func (l *line) Set(on bool) error {
	if !l.config.Output {
		return l.err("set", errors.New("it is an input"))
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return l.err("set", os.ErrClosed)
	}
	if err := l.request.set(on != l.config.ActiveLow); err != nil {
		return l.err("set", err)
	}
	return nil
}

// watch passes the kernel's edges on until the line is closed or its chip is gone.
func (l *line) watch() {
	defer close(l.done)
	for {
		high, err := l.request.edge(edgeLimit)
		select {
		case <-l.stop:
			l.fault = os.ErrClosed
			return
		default:
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			l.fault = err
			return
		default:
			select {
			case l.edges <- high:
			default: // Wait sees the level when it has caught up
			}
		}
	}
}

// Wait implements board.Line. Without debounce every edge that the kernel has kept is told, and
// the level is right after the last, however many were lost before it.
func (l *line) Wait(ctx context.Context) (bool, error) {
	if l.config.Output {
		return false, l.err("wait", errors.New("it is an output"))
	}
	wait := l.next
	if l.config.Debounce > 0 {
		wait = l.steady
	}
	high, err := wait(ctx)
	if err != nil {
		return false, l.err("wait", err)
	}
	l.last = high
	return high != l.config.ActiveLow, nil
}

// next returns the next level that differs from the last.
func (l *line) next(ctx context.Context) (high bool, err error) {
	for {
		select {
		case high = <-l.edges:
		default: // no edge waits: is the level the one we think it is?
			if high, err = l.level(); err != nil {
				return false, err
			}
			if high != l.last {
				return high, nil
			}
			if high, err = l.edge(ctx, nil); err != nil {
				return false, err
			}
		}
		if high != l.last {
			return high, nil
		}
	}
}

// steady returns the next level that differs from the last and has had no edge for the time of
// the debounce.
func (l *line) steady(ctx context.Context) (bool, error) {
	for {
		high, err := l.level()
		if err != nil {
			return false, err
		}
		var settled <-chan time.Time
		if high != l.last {
			settled = time.After(l.config.Debounce)
		}
		switch _, err := l.edge(ctx, settled); {
		case errors.Is(err, errSettled):
			if now, err := l.level(); err != nil || now == high {
				return high, err
			}
		case err != nil:
			return false, err
		}
	}
}

var errSettled = errors.New("settled")

// edge waits for an edge. settled, if not nil, ends it with errSettled.
func (l *line) edge(ctx context.Context, settled <-chan time.Time) (high bool, err error) {
	select {
	case high = <-l.edges:
		return high, nil
	case <-settled:
		return false, errSettled
	case <-l.done:
		return false, l.fault
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// Close implements board.Line. The kernel decides what becomes of the level of an output that
// nobody holds; many boards let it float.
func (l *line) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	if err := errors.Join(l.endWatch(), l.request.close()); err != nil {
		return l.err("close", err)
	}
	return nil
}

// endWatch interrupts watch until it has ended: an interrupt that comes just before the wait is
// lost.
func (l *line) endWatch() error {
	if l.config.Output {
		return nil
	}
	close(l.stop)
	for {
		err := l.request.interrupt()
		select {
		case <-l.done:
			return nil
		case <-time.After(time.Millisecond):
		}
		if err != nil && !lost(err) {
			return err
		}
	}
}

func (l *line) err(doing string, err error) error {
	if lost(err) {
		err = board.ErrGone
	}
	return fmt.Errorf("line %s: %s: %w", l.config.Name, doing, err)
}

// lost tells whether the kernel says that the device has left. periph.io passes only the words
// of errno on.
func lost(err error) bool {
	return errors.Is(err, unix.ENODEV) || strings.HasSuffix(err.Error(), unix.ENODEV.Error())
}

// requestFault says why a line was refused.
func requestFault(p place, name string, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		who := "another program"
		if c := consumerOf(p); c != "" {
			who = fmt.Sprintf("%q", c)
		}
		return faultf(board.ErrBusy, "line %s is in use by %s: stop it or choose another line", name, who)
	case errors.Is(err, unix.ENXIO):
		return faultf(err, "line %s: its chip reports no edges: choose another line for an input", name)
	}
	return fmt.Errorf("line %s: %w", name, chipFault(p.chip, err))
}

// consumerOf returns the name under which somebody else has a line, if the kernel tells.
func consumerOf(p place) string {
	chip, err := gpiocdev.NewChip(p.chip)
	if err != nil {
		return ""
	}
	defer chip.Close()
	info, err := chip.LineInfo(p.offset)
	if err != nil {
		return ""
	}
	return info.Consumer
}
