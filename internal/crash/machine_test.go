package crash

import (
	"bufio"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/broker/packet"
	"gateway/internal/client"
	"gateway/internal/vm"
)

// What the machine under test is told.
const (
	machineBinary = "GATEWAY_CRASH_BINARY"
	machineCycle  = "GATEWAY_CRASH_CYCLE"
	machineCloud  = "GATEWAY_CRASH_CLOUD"
)

// longestUp is how long a machine is up at most, from the power switch on.
const longestUp = 3 * time.Second

// TestMachine takes the power from a whole machine: an emulated one with a Linux kernel and an
// ext4 file system of its own. When it is up again, all that its gateway had acknowledged is there: in
// the queue of a subscriber, and in the cloud or on its way there, at QoS 2 once. The cloud is a
// second gateway, which runs in the same machine and keeps its store outside of it.
func TestMachine(t *testing.T) {
	m := newMachine(t, product(t))
	cycles := max(*rounds/10, 3)
	begin, acked := time.Now(), 0
	for i := range cycles {
		faults := m.cycle(i)
		if len(faults) > 0 {
			t.Fatalf("cycle %d: %d faults, the first: %s", i, len(faults), faults[0])
		}
	}
	for _, topic := range m.acked {
		acked += len(topic)
	}
	t.Logf("%d power cuts of a machine in %v: %d messages acknowledged, %d in the cloud before the last one, lost 0, doubled at QoS 2 0, out of order 0, every store sound",
		cycles, time.Since(begin).Round(time.Second), acked, m.arrived)
	if acked < cycles || m.arrived < cycles {
		t.Errorf("only %d messages were acknowledged, and %d arrived: the test shows nothing", acked, m.arrived)
	}
}

// TestMachineHarness shows that TestMachine can fail.
func TestMachineHarness(t *testing.T) {
	m := newMachine(t, mutant(t, "mutant", withoutFsync))
	for i := range soon {
		if faults := m.cycle(i); len(faults) > 0 {
			t.Logf("noticed in cycle %d: %s", i+1, faults[0])
			return
		}
	}
	t.Errorf("not noticed in %d cycles", soon)
}

// A machine is an emulated one, with a disk that stays from one cycle to the next.
type machine struct {
	t       *testing.T
	binary  string // the gateway
	program string // TestInMachine
	disk    string
	cloud   string // the folder of the cloud, which keeps its power
	acked   map[string][]int
	arrived int // in the cloud
}

func newMachine(t *testing.T, binary string) *machine {
	t.Helper()
	if vm.Inside() {
		t.Skip("this is the test kernel")
	}
	if _, ok := vm.Kernel(); !ok {
		t.Skip("no test kernel on this machine: run make vm (it is built once, in 4 to 8 minutes)")
	}
	m := &machine{t: t, binary: binary, disk: filepath.Join(t.TempDir(), "disk"), cloud: t.TempDir(), acked: map[string][]int{}}
	m.program = filepath.Join(t.TempDir(), "machine.test")
	compile := exec.Command("go", "test", "-c", "-o", m.program, ".")
	compile.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0", "GOARCH=amd64")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	const size = 256 << 20
	f, err := os.Create(m.disk)
	if err == nil {
		err = f.Truncate(size)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		mkfs = "/usr/sbin/mkfs.ext4"
	}
	if out, err := exec.Command(mkfs, "-q", "-F", m.disk).CombinedOutput(); err != nil {
		t.Skipf("no file system for the machine: %v: %s (apt-get install e2fsprogs)", err, out)
	}
	return m
}

// cycle switches the machine on, listens to what it says, and takes its power away at a random
// instant. It returns what is wrong with what the cycles before have left.
func (m *machine) cycle(number int) (faults []string) {
	folder := m.t.TempDir()
	script, err := filepath.Abs(filepath.Join(root, "internal", "vm", "run"))
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command(script, m.program, "-test.run", "^TestInMachine$", "-test.v")
	cmd.Env = append(os.Environ(), "TMPDIR="+folder, "GATEWAY_VM_SECONDS=60", "GATEWAY_VM_ARGS=ubd0="+m.disk,
		machineBinary+"="+m.binary, machineCloud+"="+m.cloud, fmt.Sprintf("%s=%d", machineCycle, number))
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	waiting, before, looked := backlog{atLocal: {}, atCloud: {}}, maps.Clone(m.acked), false
	arrived := map[string][]int{}
	var power *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var topic string
		var n int
		switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
		case "queued":
			fmt.Sscan(rest, &topic, &n)
			waiting[atLocal][topic] = append(waiting[atLocal][topic], n)
		case "leaving":
			fmt.Sscan(rest, &topic, &n)
			waiting[atCloud][topic] = append(waiting[atCloud][topic], n)
		case "arrived":
			fmt.Sscan(rest, &topic, &n)
			topic = strings.TrimPrefix(topic, "greenhouse/")
			arrived[topic] = append(arrived[topic], n)
		case "fault":
			faults = append(faults, rest)
		case "looked": // from now on it is under load
			looked = true
			power = time.AfterFunc(rand.N(longestUp), func() { cutMachine(folder) })
		case "acked":
			if _, err := fmt.Sscan(rest, &topic, &n); err == nil { // the last line may be cut
				m.acked[topic] = append(m.acked[topic], n)
			}
		}
	}
	_ = cmd.Wait() // the kernel was killed
	if power != nil {
		power.Stop()
	}
	if !looked {
		return append(faults, "the machine did not come up")
	}
	book := newLedger()
	for topic, numbers := range before {
		qos := packet.QoS(1 + (topic[len(topic)-1]-'0')%2) // see device.publish
		book.accounts[topic] = accountOf(qos, numbers, slices.Concat(arrived[topic], waiting[atCloud][topic], waiting[atLocal][topic]), atLocal, atCloud)
	}
	m.arrived = 0
	for topic, numbers := range arrived {
		m.arrived += len(numbers)
		if book.accounts[topic] == nil {
			continue // none of it was acknowledged
		}
		for _, n := range numbers {
			book.arrive(atCloud, topic, fmt.Append(nil, n))
		}
	}
	return append(append(faults, book.lost(waiting)...), book.wrong()...)
}

// cutMachine kills the kernel whose files are in a folder.
func cutMachine(folder string) {
	found, _ := filepath.Glob(filepath.Join(folder, "tmp.*", "gateway*", "pid"))
	for _, name := range found {
		var pid int
		if b, err := os.ReadFile(name); err == nil {
			if _, err := fmt.Sscan(string(b), &pid); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
			}
		}
	}
}

// TestInMachine is what runs in the machine: it prints what the store holds, and then every
// message that the gateway acknowledges, for as long as there is power.
func TestInMachine(t *testing.T) {
	if os.Getenv(machineBinary) == "" {
		t.Skip("runs in the machine of TestMachine")
	}
	folder := t.TempDir()
	if err := unix.Mount("/dev/ubda", folder, "ext4", 0, ""); err != nil {
		t.Fatalf("mount: %v", err)
	}
	in, faults := lookAt(t, folder)
	there, more := lookAt(t, os.Getenv(machineCloud))
	tell := func(word string, queue map[string][]int) {
		for topic, numbers := range queue {
			for _, n := range numbers {
				fmt.Println(word, topic, n)
			}
		}
	}
	tell("queued", in.queues[atLocal])
	tell("leaving", in.queues[atCloud])
	tell("arrived", there.queues[atLocal]) // those of the cloud's subscriber
	for _, f := range append(faults, more...) {
		fmt.Println("fault", f)
	}
	cycle, err := strconv.Atoi(os.Getenv(machineCycle))
	if err != nil {
		t.Fatal(err)
	}
	up := cloudInMachine(t, there.queues == nil)
	s := newSiteBelow(t, os.Getenv(machineBinary), nil, versions[cycle%len(versions)], up, "")
	s.folder = folder
	s.configure("")
	for _, d := range s.devices {
		d.name += fmt.Sprint("-", cycle) // the devices of a cycle die with it
		d.topic += fmt.Sprint("-", cycle)
		d.enter = d.topic
		d.mark = func(topic string, n int) { fmt.Println("acked", topic, n) }
	}
	s.start()
	if in.queues == nil { // in the first cycle: whoever connects later would get what waits
		s.sleeper()
	}
	fmt.Println("looked")
	s.peers.start(t)
	select {}
}

// cloudInMachine starts the cloud, and returns its address. In the first cycle its subscriber comes, and
// never again.
func cloudInMachine(t *testing.T, first bool) (address string) {
	t.Helper()
	address = freeAddress(t)
	config := filepath.Join(t.TempDir(), "cloud.yaml")
	text := fmt.Sprintf("gateway: {id: cloud, data: %s}\nlisteners:\n  - name: local\n    address: %s\n    anonymous: true\n", os.Getenv(machineCloud), address)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Getenv(machineBinary), "run", config)
	if err := cmd.Start(); err != nil { // it ends with the power
		t.Fatal(err)
	}
	if first {
		consumer := &peers{readers: []*subscriber{{peer{
			name: "consumer", version: packet.V5, address: address, session: client.NewSession(),
		}, []string{"greenhouse/up/#"}}}}
		consumer.subscribe(t)
	}
	return address
}

// lookAt reads the store in a folder, if there is one.
func lookAt(t *testing.T, folder string) (stock, []string) {
	to := t.TempDir()
	b, err := os.ReadFile(filepath.Join(folder, "store.db"))
	if os.IsNotExist(err) {
		return stock{}, nil
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(to, "store.db"), b, 0o600)
	}
	if err != nil {
		return stock{}, []string{err.Error()}
	}
	return readStore(filepath.Join(to, "store.db"))
}
