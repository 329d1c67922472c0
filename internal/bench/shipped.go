package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// sizes prints how large the binaries are.
func sizes(ctx context.Context, b *bench) error {
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

// starts prints the time to the first CONNACK with an empty store, and the memory when it has settled.
func starts(ctx context.Context, b *bench) error {
	type figures struct{ started, rss, anonymous []float64 }
	all := make([]figures, len(b.brokers))
	for range b.repeat {
		for i, br := range b.brokers {
			p, err := b.start(ctx, br)
			if err != nil {
				return err
			}
			time.Sleep(b.settled()) // idle is what is measured
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
