package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// A bench holds what all rows have in common.
type bench struct {
	settings
	dir     string
	brokers []broker
	certs   certificates
	busy    bool // a row was marked
}

// count returns how many connections, subscriptions or messages to use where n are to be measured.
func (b *bench) count(n int) int {
	if b.smoke {
		return min(n, max(n/500, 10))
	}
	return n
}

// quiet is how long to wait until a broker has done what it does after work.
func (b *bench) quiet() time.Duration {
	if b.smoke {
		return 10 * time.Millisecond
	}
	return time.Second
}

// settled is how long to wait until a broker has given back what it does not need after much work.
func (b *bench) settled() time.Duration { return 3 * b.quiet() }

// row prints one line of the table.
func (b *bench) row(label string, cells []string) {
	fmt.Printf("| %s |", label)
	for _, c := range cells {
		fmt.Printf(" %s |", c)
	}
	fmt.Println()
}

// figures repeats a measurement with each broker in turn, with an empty store each time, and
// prints the medians of what it returns as one row.
func (b *bench) figures(ctx context.Context, label string, measure func(*process) ([]float64, error), format func([]float64) string) error {
	all := make([][][]float64, len(b.brokers)) // by broker, value and repetition
	for range b.repeat {
		for i, br := range b.brokers {
			p, err := b.start(ctx, br)
			if err != nil {
				return err
			}
			values, err := measure(p)
			p.stop()
			if err != nil {
				return fmt.Errorf("%s: %s: %w", label, br.name, err)
			}
			if all[i] == nil {
				all[i] = make([][]float64, len(values))
			}
			for j, v := range values {
				all[i][j] = append(all[i][j], v)
			}
		}
	}
	cells := make([]string, len(all))
	for i, values := range all {
		medians := make([]float64, len(values))
		for j, v := range values {
			medians[j] = median(v)
		}
		cells[i] = format(medians)
	}
	b.row(label, cells)
	return nil
}

// A rate is what a broker did during one measurement.
type rate struct {
	perSecond float64
	cpu       time.Duration // of the broker, per message
	core      float64       // of the broker's core, 1: all the time
	loadBusy  bool          // the load had less idle time than the broker
}

// meter measures a broker while work is done that returns how many messages it was.
func (p *process) meter(work func() (int64, error)) (rate, error) {
	self, pid := os.Getpid(), p.cmd.Process.Pid
	loadBefore, err1 := cpuTime(self)
	cpuBefore, err2 := cpuTime(pid)
	start := time.Now()
	n, err := work()
	took := time.Since(start)
	cpuAfter, err3 := cpuTime(pid)
	loadAfter, err4 := cpuTime(self)
	if err := errors.Join(err, err1, err2, err3, err4); err != nil {
		return rate{}, err
	}
	if n == 0 {
		return rate{}, errors.New("no message came through")
	}
	cpu, load := cpuAfter-cpuBefore, loadAfter-loadBefore
	return rate{
		perSecond: float64(n) / took.Seconds(),
		cpu:       cpu / time.Duration(n),
		core:      float64(cpu) / float64(took),
		loadBusy:  load > took*9/10 && load > cpu,
	}, nil
}

// rates is figures for messages at full speed.
func (b *bench) rates(ctx context.Context, label string, measure func(*process) (rate, error)) error {
	return b.figures(ctx, label, func(p *process) ([]float64, error) {
		r, err := measure(p)
		busy := 0.0
		if r.loadBusy {
			busy = 1
		}
		return []float64{r.perSecond, float64(r.cpu), busy}, err
	}, func(v []float64) string {
		mark := ""
		if v[2] > 0 {
			mark, b.busy = " *", true
		}
		return fmt.Sprintf("%s/s, %.2f µs CPU%s", thousands(int64(v[0])), v[1]/float64(time.Microsecond), mark)
	})
}

// notes prints what a reader has to know.
func (b *bench) notes() {
	fmt.Printf(`
Medians of %d, in turn; broker and load on a core each; MQTT 3.1.1 on the loopback. The payload is %d bytes, in rows that
say for or to whom %d. CPU is the broker's, per message, user and system time together.
Durable: the subscriber's session is offline. The gateway acknowledges after the message is synced to disk;
mosquitto, with persistence on, acknowledges from memory and writes every 30 minutes.
mosquitto's binary is linked dynamically; the gateway's is static.
`, b.repeat, b.payload, small)
	if b.busy {
		fmt.Println("\\* The load was the limit: the broker could do more.")
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func megabytes(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }

// thousands writes a number with a comma before each group of three digits.
func thousands(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}
