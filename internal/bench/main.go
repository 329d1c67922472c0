// Command bench prints the table of figures in the README: a built gateway beside Debian's
// mosquitto, measured in turn, as processes of their own with empty stores.
//
//	go run ./internal/bench -dist dist
//	go run ./internal/bench -rows durable,qos0 -repeat 3
//
// The broker has one core to itself and the load another. A row in which the load was busier
// than the broker is marked: there the broker could do more.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// settings are the flags.
type settings struct {
	dist    string        // folder with the built binaries; what is missing there is built
	binary  string        // the gateway to measure; empty: that of dist
	rows    string        // names of the rows, with commas
	span    time.Duration // of one measurement
	repeat  int           // measurements of each figure
	payload int           // bytes of a message
}

const rowNames = "size,start,durable,qos0"

func main() {
	b := &bench{}
	flag.StringVar(&b.dist, "dist", "dist", "folder with the built binaries; what is missing is built")
	flag.StringVar(&b.binary, "gateway", "", "gateway to measure, instead of that in the folder")
	flag.StringVar(&b.rows, "rows", rowNames, "rows to measure")
	flag.DurationVar(&b.span, "span", 3*time.Second, "length of one measurement")
	flag.IntVar(&b.repeat, "repeat", 5, "measurements of each figure, whose median is printed")
	flag.IntVar(&b.payload, "payload", 200, "bytes of a message")
	flag.Parse()
	if flag.NArg() > 0 || b.repeat < 1 || b.payload < 0 || b.span <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := pinLoad(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: broker and load share their cores:", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run prints the table, row by row.
func (b *bench) run(ctx context.Context) (err error) {
	b.dir, err = os.MkdirTemp("", "gateway-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	path, err := b.gateway(ctx)
	if err != nil {
		return err
	}
	b.brokers = []broker{newGateway(path)}
	if mosquitto, err := newMosquitto(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: the gateway alone:", err)
	} else {
		b.brokers = append(b.brokers, mosquitto)
	}
	b.header()
	for _, name := range strings.Split(b.rows, ",") {
		if err := b.measure(ctx, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	b.notes()
	return nil
}

// measure prints the rows of one name.
func (b *bench) measure(ctx context.Context, name string) error {
	switch name {
	case "size":
		return b.sizes(ctx)
	case "start":
		return b.starts(ctx)
	case "durable":
		for _, publishers := range []int{1, 8, 64} {
			if err := b.durable(ctx, publishers); err != nil {
				return err
			}
		}
		return nil
	case "qos0":
		return b.atMostOnce(ctx)
	}
	return fmt.Errorf("no such row: want some of %s", rowNames)
}

// gateway returns a binary for this machine: the one that is shipped, where it is for this kind.
func (b *bench) gateway(ctx context.Context) (string, error) {
	if b.binary != "" {
		return b.binary, nil
	}
	path, err := filepath.Abs(filepath.Join(b.dist, "gateway-linux-"+runtime.GOARCH))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	path = filepath.Join(b.dir, "gateway")
	return path, build(ctx, path, runtime.GOARCH, "")
}

// build makes a binary as it is shipped.
func build(ctx context.Context, path, arch, arm string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "gateway/cmd/gateway")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOARM="+arm)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build for %s: %w\n%s", arch, err, out)
	}
	return nil
}

// header prints the machine and the first lines of the table.
func (b *bench) header() {
	fmt.Printf("%s, %d cores, %s\n\n", cpuModel(), cores(), runtime.Version())
	names := make([]string, len(b.brokers))
	for i, br := range b.brokers {
		names[i] = br.name
	}
	b.row("", names)
	fmt.Println("|---|" + strings.Repeat("---:|", len(names)))
}
