package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestOutages is the promise of the gateway. In every round the uplink fails and the gateway is
// killed, at random moments and under load, and both return. Every QoS 1 message that was
// acknowledged to its device arrives at the cloud at least once, every QoS 2 message exactly
// once, and the order in each topic is kept.
func TestOutages(t *testing.T) {
	for _, version := range []string{"3.1.1", "5.0"} {
		t.Run(version, func(t *testing.T) { outages(t, version, "strict") })
	}
	t.Run("live first", func(t *testing.T) { outages(t, "5.0", "live_first") })
}

func outages(t *testing.T, version, replay string) {
	visit := mosquitto(t, "mosquitto_pub")
	cloud, books, sensor := newCloud(t), newLedger(), &readings{seen: map[float64]bool{}}
	line := newLink(t, cloud.address)
	cloud.collect(books, 2, sensor.add)
	usb := newPort(t)
	usb.plug()
	section := speaking(version, bridge(line.address(), cloud.file, cloud.valid("greenhouse")))
	section = strings.Replace(section, "filter: up/#,", "filter: up/#, replay: "+replay+",", 1)
	g := newGateway(t, section, serial(usb.name))
	g.start()
	books.overtaking = replay == "live_first"

	load, stop := context.WithCancel(t.Context())
	defer stop()
	var workers sync.WaitGroup
	devices := devicesOf(g, books, 4*time.Millisecond)
	for _, d := range devices {
		workers.Go(func() {
			if err := d.run(load, 20*time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	workers.Go(func() { (&visitor{path: visit, address: g.address, ledger: books}).run(load) })
	workers.Go(func() { usb.say(load, 20*time.Millisecond, 0) })

	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("%d rounds, -seed %d", *rounds, s)
	start := time.Now()
	o := &outage{random: rand.New(rand.NewPCG(s, s)), line: line, gateway: g, cloud: cloud}
	for i := range *rounds {
		t.Logf("round %d at %s, after arrival %d: %s", i, time.Now().UTC().Format(clock), books.total(), o.round())
		before, readingsBefore := books.total(), sensor.count()
		eventually(t, 15*time.Second, "messages of devices and readings of the sensor arrive again", func() bool {
			return books.total() > before && sensor.count() > readingsBefore
		})
		if books.twice() > 0 {
			break // so that the logs end where it happened
		}
	}
	stop()
	workers.Wait()
	within(t, 30*time.Second, func() bool { return books.missing() == 0 })
	quiet(t, books) // what is sent twice comes late
	t.Logf("%d rounds in %v, %d messages and %d readings arrived", *rounds, time.Since(start).Round(time.Second), books.total(), sensor.count())
	books.audit(t)
	if !books.overtaking {
		sensor.audit(t)
	}
	for _, d := range devices {
		if d.lost > 0 {
			t.Errorf("%s: the gateway forgot the session %d times [MQTT-4.1.0-1]", d.name, d.lost)
		}
	}
}

// speaking lets a bridge speak a version of MQTT.
func speaking(version, bridge string) string {
	return strings.Replace(bridge, "name: cloud\n", "name: cloud\n    version: "+version+"\n", 1)
}

// An outage is a way for the uplink to fail and for the gateway to die.
type outage struct {
	random  *rand.Rand
	line    *link
	gateway *gateway
	cloud   *cloud
}

// round cuts and kills in one of three orders, and brings both back. It returns what it did.
func (o *outage) round() string {
	fail, how := o.line.sever, "line severed"
	if o.random.IntN(2) == 0 {
		fail, how = o.line.blackhole, "line black"
	}
	o.wait(400)
	if o.random.IntN(4) == 0 { // the cloud too, in order: mosquitto keeps nothing when it is killed
		o.cloud.restart()
		how += " after the cloud was restarted"
	}
	switch o.random.IntN(3) {
	case 0: // the queue grows, then the power goes
		fail()
		o.wait(400)
		o.gateway.kill()
		how += ", then killed"
	case 1: // in the middle of forwarding
		o.gateway.kill()
		fail()
		how = "killed, then " + how
	case 2: // it starts without an uplink
		o.gateway.kill()
		fail()
		o.wait(100)
		o.gateway.start()
		o.wait(300)
		o.line.restore()
		return "killed, then " + how + ", started without a line"
	}
	o.wait(100)
	if o.random.IntN(2) == 0 {
		o.line.restore()
		how += ", line back first"
	}
	o.gateway.start()
	o.wait(300)
	o.line.restore()
	return how
}

// wait lets up to so many milliseconds pass: the random instants are what is tested.
func (o *outage) wait(most int) {
	time.Sleep(time.Duration(o.random.IntN(most*1000)) * time.Microsecond)
}

// quiet waits until nothing has arrived for a second.
func quiet(t *testing.T, books *ledger) {
	t.Helper()
	last, since := books.total(), time.Now()
	eventually(t, 20*time.Second, "silence", func() bool {
		if n := books.total(); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > time.Second
	})
}

// Readings are those of the serial sensor as they arrive. They are nobody's acknowledged
// messages: some may be lost with the power, but time does not run backwards in them.
type readings struct {
	mu     sync.Mutex
	seen   map[float64]bool
	newest float64
	faults []string
}

func (r *readings) add(payload []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var reading struct {
		Value   *float64
		Quality string
	}
	err := json.Unmarshal(payload, &reading)
	switch {
	case err != nil:
		r.faults = append(r.faults, fmt.Sprintf("%.80q is no reading: %v", payload, err))
	case reading.Value == nil: // the sensor is told to be away: quality bad
	case r.seen[*reading.Value]: // again, after an outage
	case *reading.Value < r.newest:
		r.faults = append(r.faults, fmt.Sprintf("%v arrived after %v", *reading.Value, r.newest))
	default:
		r.seen[*reading.Value], r.newest = true, *reading.Value
	}
}

func (r *readings) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

func (r *readings) audit(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.faults[:min(len(r.faults), 5)] {
		t.Errorf("up/sensor: %s", f)
	}
}

// serial is the section of a sensor that sends lines like "12,ok".
func serial(port string) string {
	return fmt.Sprintf(`serial:
  - port: %s
    baud: 115200
    frames:
      - format: split
        fields:
          - {field: 0, point: up/sensor}
`, port)
}
