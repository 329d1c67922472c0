package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// A bench holds what all rows have in common.
type bench struct {
	settings
	dir     string
	brokers []broker
	busy    bool // a row was marked
}

const topic = "bench/sensor/1"

// row prints one line of the table.
func (b *bench) row(label string, cells []string) {
	fmt.Printf("| %s |", label)
	for _, c := range cells {
		fmt.Printf(" %s |", c)
	}
	fmt.Println()
}

// sizes prints how large the binaries are.
func (b *bench) sizes(ctx context.Context) error {
	for _, target := range []struct{ file, arch, arm string }{
		{"gateway-linux-armv6", "arm", "6"},
		{"gateway-linux-armv7", "arm", "7"},
		{"gateway-linux-arm64", "arm64", ""},
		{"gateway-linux-amd64", "amd64", ""},
	} {
		path := filepath.Join(b.dist, target.file)
		if _, err := os.Stat(path); err != nil {
			path = filepath.Join(b.dir, target.file)
			if err := build(ctx, path, target.arch, target.arm); err != nil {
				return err
			}
		}
		cells := make([]string, len(b.brokers))
		for i, br := range b.brokers {
			if i > 0 && target.arch != "amd64" {
				cells[i] = "–"
				continue
			}
			if i > 0 {
				path = br.path
			}
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			cells[i] = megabytes(info.Size())
		}
		b.row("binary, "+target.arch+arm(target.arm), cells)
	}
	return nil
}

func arm(version string) string {
	if version == "" {
		return ""
	}
	return "/" + version
}

// starts prints the time to the first CONNACK with an empty store, and the memory a second later.
func (b *bench) starts(ctx context.Context) error {
	type figures struct{ started, rss, anonymous []float64 }
	all := make([]figures, len(b.brokers))
	for range b.repeat {
		for i, br := range b.brokers {
			p, err := br.start(ctx, b.dir)
			if err != nil {
				return err
			}
			time.Sleep(time.Second) // idle is what is measured
			rss, anonymous, err := memory(p.cmd.Process.Pid)
			p.stop()
			if err != nil {
				return err
			}
			f := &all[i]
			f.started = append(f.started, float64(p.started))
			f.rss, f.anonymous = append(f.rss, float64(rss)), append(f.anonymous, float64(anonymous))
		}
	}
	started, resident := make([]string, len(all)), make([]string, len(all))
	for i, f := range all {
		started[i] = fmt.Sprintf("%.0f ms", median(f.started)/float64(time.Millisecond))
		resident[i] = fmt.Sprintf("%s (%s)", megabytes(int64(median(f.rss))), megabytes(int64(median(f.anonymous))))
	}
	b.row("start to first CONNACK", started)
	b.row("idle RSS (of it anonymous)", resident)
	return nil
}

// A rate is the result of one measurement.
type rate struct {
	perSecond float64
	cpu       time.Duration // of the broker, per message
	loadBusy  bool          // the load had less idle time than the broker
}

// durable measures QoS 1 messages for a session that is offline, so that each has to be stored.
func (b *bench) durable(ctx context.Context, publishers int) error {
	return b.rates(ctx, fmt.Sprintf("durable QoS 1, %d publisher%s", publishers, plural(publishers)), func(p *process) (int64, error) {
		sleeper, err := client.Dial(ctx, p.address, client.Options{ClientID: "sleeper", KeepSession: true})
		if err != nil {
			return 0, err
		}
		_, err = sleeper.Subscribe(ctx, packet.Subscription{Filter: "bench/#", QoS: 1})
		if err = errors.Join(err, sleeper.Disconnect(ctx)); err != nil {
			return 0, err
		}
		return b.publish(ctx, p, publishers, 1, nil)
	})
}

// atMostOnce measures QoS 0 messages from one publisher to one subscriber, with a bound on what
// is under way, so that none is dropped.
func (b *bench) atMostOnce(ctx context.Context) error {
	return b.rates(ctx, "QoS 0, one to one", func(p *process) (int64, error) {
		const underWay = 4000 // messages
		credit := make(chan struct{}, underWay/batch)
		for range cap(credit) {
			credit <- struct{}{}
		}
		var received atomic.Int64
		subscriber, err := client.Dial(ctx, p.address, client.Options{ClientID: "subscriber", Receive: func(packet.Publish) {
			if received.Add(1)%batch == 0 {
				credit <- struct{}{} // never more than were taken
			}
		}})
		if err != nil {
			return 0, err
		}
		defer subscriber.Close()
		if _, err := subscriber.Subscribe(ctx, packet.Subscription{Filter: "bench/#"}); err != nil {
			return 0, err
		}
		_, err = b.publish(ctx, p, 1, 0, credit)
		return received.Load(), err
	})
}

// batch is how many QoS 0 messages one credit stands for.
const batch = 100

// publish has some publishers send at full speed for the span, and returns how many messages
// were acknowledged. With credit, each batch takes one.
func (b *bench) publish(ctx context.Context, p *process, publishers int, qos packet.QoS, credit chan struct{}) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, b.span)
	defer cancel()
	payload := make([]byte, b.payload)
	var acked atomic.Int64
	var workers sync.WaitGroup
	failed := make(chan error, publishers) // one from each at most
	for i := range publishers {
		workers.Go(func() {
			failed <- publisher(ctx, p.address, "publisher"+strconv.Itoa(i), packet.Publish{Topic: topic, QoS: qos, Payload: payload}, &acked, credit)
		})
	}
	workers.Wait()
	close(failed)
	var errs []error
	for err := range failed {
		errs = append(errs, err)
	}
	return acked.Load(), errors.Join(errs...)
}

func publisher(ctx context.Context, address, id string, m packet.Publish, acked *atomic.Int64, credit chan struct{}) error {
	c, err := client.Dial(ctx, address, client.Options{ClientID: id, Window: 100})
	if err != nil {
		return err
	}
	defer c.Close()
	done := func(code packet.ReasonCode, err error) {
		if err == nil && !code.Failed() {
			acked.Add(1)
		}
	}
	for n := 0; ctx.Err() == nil; n++ {
		if credit != nil && n%batch == 0 {
			select {
			case <-credit:
			case <-ctx.Done():
				return nil
			}
		}
		if err := c.Send(ctx, m, done); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// rates repeats a measurement with each broker in turn and prints the medians.
func (b *bench) rates(ctx context.Context, label string, measure func(*process) (int64, error)) error {
	all := make([][]rate, len(b.brokers))
	for range b.repeat {
		for i, br := range b.brokers {
			r, err := b.rate(ctx, br, measure)
			if err != nil {
				return fmt.Errorf("%s: %w", br.name, err)
			}
			all[i] = append(all[i], r)
		}
	}
	cells := make([]string, len(all))
	for i, results := range all {
		slices.SortFunc(results, func(x, y rate) int { return int(x.perSecond - y.perSecond) })
		r := results[len(results)/2]
		cells[i] = fmt.Sprintf("%s/s, %.1f µs CPU", thousands(int64(r.perSecond)), float64(r.cpu)/float64(time.Microsecond))
		if r.loadBusy {
			b.busy = true
			cells[i] += " *"
		}
	}
	b.row(label, cells)
	return nil
}

func (b *bench) rate(ctx context.Context, br broker, measure func(*process) (int64, error)) (rate, error) {
	p, err := br.start(ctx, b.dir)
	if err != nil {
		return rate{}, err
	}
	defer p.stop()
	self, pid := os.Getpid(), p.cmd.Process.Pid
	loadBefore, err1 := cpuTime(self)
	cpuBefore, err2 := cpuTime(pid)
	start := time.Now()
	n, err := measure(p)
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
		loadBusy:  load > took*9/10 && load > cpu,
	}, nil
}

// notes prints what a reader has to know.
func (b *bench) notes() {
	fmt.Printf(`
Medians of %d, in turn; broker and load on a core each; payload %d bytes, window 100, MQTT 3.1.1 on the loopback.
Durable: the subscriber's session is offline. The gateway acknowledges after the message is synced to disk;
mosquitto, with persistence on, acknowledges from memory and writes every 30 minutes.
mosquitto's binary is linked dynamically; the gateway's is static.
`, b.repeat, b.payload)
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

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}
