package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// uplink measures what a gateway with commit_delay writes to the disk for a stream that leaves over a
// bridge, for each byte of payload. Mosquitto is the cloud, and no column of this row.
func uplink(ctx context.Context, b *bench) error {
	if len(b.brokers) < 2 {
		return nil // there is no cloud
	}
	cloud, err := b.start(ctx, b.brokers[1])
	if err != nil {
		return err
	}
	defer cloud.stop()
	for _, version := range []string{"3.1.1", "5.0"} {
		for _, perSecond := range []int{10, 200, 2000} {
			w, err := b.stream(ctx, cloud, version, perSecond)
			if err != nil {
				return err
			}
			b.row(fmt.Sprintf("QoS 1 over a bridge at %s, %d/s, bytes written per byte", version, perSecond), []string{fmt.Sprintf("%.2f", w), "–"})
		}
	}
	return nil
}

// stream publishes so many messages a second through a gateway, for one span, and returns the bytes that
// were written for each byte of payload.
func (b *bench) stream(ctx context.Context, cloud *process, version string, perSecond int) (written float64, err error) {
	bridged := b.brokers[0]
	plain := bridged.config
	bridged.config = func(s site) string {
		return strings.Replace(plain(s), "max_size: 1GB", "max_size: 1GB, commit_delay: 250ms", 1) + fmt.Sprintf(`bridges:
  - {name: cloud, version: %s, url: "mqtt://%s", client_id: bench-%s-%d, rules: [{direction: out, filter: bench/#, qos: 1}]}
`, version, cloud.at["mqtt"], version, perSecond)
	}
	p, err := b.start(ctx, bridged)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	time.Sleep(2 * b.quiet()) // until the bridge is connected
	c, err := client.Dial(ctx, "mqtt://"+p.at["mqtt"], client.Options{ClientID: "device", Window: 1000})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	before, err := diskWrites(p.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	n := 0
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < b.span || n == 0; n++ {
		<-tick.C
		payload := fmt.Appendf(nil, "%*d", b.payload, n) // all differ, or the bridge takes them for a circle
		if err := c.Send(ctx, packet.Publish{Topic: topic, QoS: 1, Payload: payload}, nil); err != nil {
			return 0, err
		}
	}
	err = c.Wait(ctx)
	time.Sleep(b.quiet())
	after, err2 := diskWrites(p.cmd.Process.Pid)
	return float64(after-before) / float64(n*max(b.payload, 1)), errors.Join(err, err2)
}

// diskWrites returns how many bytes a process has had written to disks.
func diskWrites(pid int) (n int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "\nwrite_bytes: ")
	_, err = fmt.Sscan(rest, &n)
	return n, err
}
