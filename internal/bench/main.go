// Command bench prints tables of figures: a built gateway beside Debian's mosquitto, measured in
// turn, as processes of their own with empty stores.
//
//	go run ./internal/bench -dist dist               the table in the README
//	go run ./internal/bench -rows all                everything, a quarter of an hour
//	go run ./internal/bench -rows fanout,idle -repeat 3
//	go run ./internal/bench -rows all -smoke         does every row work?
//	go run ./internal/bench -rows all -smoke -gateway dist/gateway-linux-armv6 -through qemu-arm-static
//	                                                 on that processor, too?
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
	"slices"
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
	smoke   bool          // figures do not matter
	through string        // program that the gateway is started with, and its arguments
}

// A row is one subject of the table: one line or some that belong together.
type row struct {
	name    string
	measure func(context.Context, *bench) error
}

// rows are in the order of the table.
var rows = []row{
	{"size", sizes},
	{"start", starts},
	{"durable", durable},
	{"qos0", oneToOne},
	{"many", atMostOnce},
	{"fanout", fanOut},
	{"acknowledged", acknowledged},
	{"wrapped", wrapped},
	{"single", oneAtATime},
	{"steady", steady},
	{"connections", crowded},
	{"handshakes", handshakes},
	{"subscriptions", subscriptions},
	{"retained", retained},
	{"idle", idle},
	{"uplink", uplink},
}

// defaultRows are those of the README.
const defaultRows = "size,start,durable,qos0"

func rowNames() string {
	names := []string{"all"}
	for _, r := range rows {
		names = append(names, r.name)
	}
	return strings.Join(names, ",")
}

func main() {
	b := &bench{}
	flag.StringVar(&b.dist, "dist", "dist", "folder with the built binaries; what is missing is built")
	flag.StringVar(&b.binary, "gateway", "", "gateway to measure, instead of that in the folder")
	flag.StringVar(&b.rows, "rows", defaultRows, "rows to measure, some of "+rowNames())
	flag.DurationVar(&b.span, "span", 3*time.Second, "length of one measurement")
	flag.IntVar(&b.repeat, "repeat", 5, "measurements of each figure, whose median is printed")
	flag.IntVar(&b.payload, "payload", 200, "bytes of a message")
	flag.BoolVar(&b.smoke, "smoke", false, "only see whether it works: tiny spans and numbers, one measurement of each")
	flag.StringVar(&b.through, "through", "", "program, with arguments, that starts the gateway, such as qemu-arm-static; the gateway is alone then")
	flag.Parse()
	if b.smoke {
		b.span, b.repeat = 100*time.Millisecond, 1
	}
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
	chosen, err := b.choose()
	if err != nil {
		return err
	}
	b.dir, err = os.MkdirTemp("", "gateway-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.certs, err = newCertificates(b.dir); err != nil {
		return err
	}
	path, err := b.gateway(ctx)
	if err != nil {
		return err
	}
	b.brokers = []broker{newGateway(path, b.through)}
	if b.through == "" {
		if mosquitto, err := newMosquitto(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: the gateway alone:", err)
		} else {
			b.brokers = append(b.brokers, mosquitto)
		}
	}
	b.header()
	for _, r := range chosen {
		if err := r.measure(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	b.notes()
	return nil
}

// choose returns the rows that are asked for.
func (s *settings) choose() (chosen []row, err error) {
	if s.rows == "all" {
		return rows, nil
	}
	for name := range strings.SplitSeq(s.rows, ",") {
		i := slices.IndexFunc(rows, func(r row) bool { return r.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no row %q: want some of %s", name, rowNames())
		}
		chosen = append(chosen, rows[i])
	}
	return chosen, nil
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
