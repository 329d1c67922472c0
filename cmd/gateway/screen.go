package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
	"gateway/config"
)

// A screen shows the points of a running gateway in a terminal: one line each, with the log above
// them. Where there is no terminal it prints a line whenever a point changes.
type screen struct {
	out     io.Writer
	redraws bool     // out is a terminal
	hints   []string // what to try next
	command string   // how the user calls this program

	mu     sync.Mutex
	points map[string]string // topic → value, unit and quality
	drawn  int               // lines of the last drawing
}

// screenPeriod is the time between two drawings.
const screenPeriod = 500 * time.Millisecond

func newScreen(out io.Writer, c *config.Config) *screen {
	s := &screen{out: out, points: make(map[string]string), command: commandName()}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		s.redraws = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	s.hints = tryNext(s.command, c)
	return s
}

// commandName returns how the program was called, as far as it can be called so again.
func commandName() string {
	if strings.Contains(os.Args[0], "go-build") {
		return "go run ./cmd/gateway"
	}
	return os.Args[0]
}

// tryNext returns commands that show what the gateway does.
func tryNext(command string, c *config.Config) []string {
	where := ""
	for _, l := range c.Listeners {
		if port := l.Address[strings.LastIndexByte(l.Address, ':')+1:]; l.Anonymous && l.TLS == nil && port != "1883" {
			where = " -p " + port
		}
	}
	hints := []string{command + " sub" + where + " '#'"}
	for _, o := range c.Outputs {
		if len(hints) == 3 {
			break
		}
		word := o.On
		if o.SafeOn() {
			word = o.Off
		}
		hints = append(hints, fmt.Sprintf("%s pub%s %s/set %s", command, where, o.Point, word))
	}
	return hints
}

// show shows the points until ctx ends.
func (s *screen) show(ctx context.Context, server *broker.Server) error {
	c, err := server.Connect(broker.ClientOptions{ID: "$screen", CleanStart: true})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Subscribe(packet.Subscribe{Filters: []packet.Subscription{{Filter: "#"}}}); err != nil {
		return err
	}
	if s.redraws {
		stop := s.draw(ctx)
		defer stop()
	} else {
		s.print("try: " + strings.Join(s.hints, "\n     "))
	}
	for {
		p, _, err := c.Next(ctx)
		if err != nil {
			return nil // the gateway stops
		}
		s.update(p.Topic, p.Payload)
	}
}

// update takes the newest value of a topic.
func (s *screen) update(topic string, payload []byte) {
	if strings.HasSuffix(topic, "/set") || strings.HasSuffix(topic, "/result") {
		return
	}
	topic, text := printable([]byte(topic)), pointText(payload)
	s.mu.Lock()
	changed := s.points[topic] != text
	s.points[topic] = text
	s.mu.Unlock()
	if changed && !s.redraws {
		s.print(fmt.Sprintf("%-32s %s", topic, text))
	}
}

func (s *screen) print(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintln(s.out, line)
}

// pointWidth is the longest value that is shown, in characters, so that a point stays on one line.
const pointWidth = 60

// pointText returns a payload as people read it.
func pointText(payload []byte) string {
	text := []rune(printable([]byte(fullText(payload))))
	if len(text) > pointWidth {
		text = append(text[:pointWidth-1], '…')
	}
	return string(text)
}

func fullText(payload []byte) string {
	var r struct {
		Value   any
		Unit    string
		Quality string
		Error   string
	}
	if json.Unmarshal(payload, &r) != nil || r.Quality == "" {
		return string(payload)
	}
	text := fmt.Sprintf("%v %s", r.Value, r.Unit)
	switch {
	case r.Value == nil:
		text = r.Quality + ": " + r.Error
	case r.Quality != "good":
		text = fmt.Sprintf("%v %s (%s: %s)", r.Value, r.Unit, r.Quality, r.Error)
	}
	return strings.TrimSpace(text)
}

// draw draws the points again and again, until the function that it returns is called.
func (s *screen) draw(ctx context.Context) (stop func()) {
	var done sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	done.Go(func() {
		tick := time.NewTicker(screenPeriod)
		defer tick.Stop()
		for {
			s.redraw(nil)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); done.Wait() }
}

// redraw replaces the last drawing by log lines, if any, and a new drawing below them.
func (s *screen) redraw(above []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b bytes.Buffer
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	b.WriteString("\x1b[J")
	b.Write(above)
	topics := make([]string, 0, len(s.points))
	for t := range s.points {
		topics = append(topics, t)
	}
	sort.Strings(topics)
	fmt.Fprintf(&b, "\n  %s\n\n", time.Now().Format(time.TimeOnly))
	for _, t := range topics {
		fmt.Fprintf(&b, "  %-34s %s\n", t, s.points[t])
	}
	b.WriteString("\n  try in another terminal:\n")
	for _, h := range s.hints {
		fmt.Fprintf(&b, "    %s\n", h)
	}
	s.drawn = len(topics) + len(s.hints) + 5
	_, _ = s.out.Write(b.Bytes())
}

// Write makes the screen a place for the log.
func (s *screen) Write(line []byte) (int, error) {
	if s.redraws {
		s.redraw(line)
		return len(line), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(line)
}
