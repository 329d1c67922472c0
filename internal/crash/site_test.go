package crash

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gateway/broker/session"
	"gateway/offline"
)

// A site is a gateway, as a process that is killed and started again, with its peers.
type site struct {
	*peers
	t       *testing.T
	binary  string
	address string
	random  *rand.Rand
	disk    *disk  // nil: the folder is one of this machine
	folder  string // the gateway's data
	unmount func()
	config  string

	cmd    *exec.Cmd
	log    *output
	exited chan struct{} // closed when cmd has ended
}

// An output keeps the end of what processes print.
type output struct {
	mu  sync.Mutex
	buf []byte
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf = append(o.buf, b...); len(o.buf) > 64<<10 {
		o.buf = bytes.Clone(o.buf[len(o.buf)-32<<10:])
	}
	return len(b), nil
}

// newSite describes a gateway with a mosquitto as its cloud. On a disk its power can fail. The bridge
// speaks a version of MQTT with the cloud; "" is no cloud.
func newSite(t *testing.T, binary string, d *disk, version string) *site {
	t.Helper()
	cloud := ""
	if version != "" {
		cloud = startCloud(t)
	}
	return newSiteBelow(t, binary, d, version, cloud, cloud)
}

// newSiteBelow describes a gateway whose bridge reaches a cloud by the address of a line. Without the
// cloud's own address there are only devices.
func newSiteBelow(t *testing.T, binary string, d *disk, version, line, cloud string) *site {
	t.Helper()
	s := &site{t: t, binary: binary, disk: d, address: freeAddress(t), log: &output{}}
	n := *seed
	if n == 0 {
		n = rand.Uint64()
	}
	t.Logf("-seed %d", n)
	s.random = rand.New(rand.NewPCG(n, n))
	uplink := ""
	if version != "" {
		uplink = fmt.Sprintf(uplinkSection, version, line)
	}
	if cloud != "" {
		uplink = hoardSection + uplink
	}
	var mark func(string, int)
	if d == nil {
		s.folder = t.TempDir()
	} else {
		s.folder, s.unmount = d.mount(t)
		if d.records {
			mark = func(topic string, number int) {
				d.do(op{kind: opMark, name: topic, off: int64(number)})
			}
		}
	}
	s.peers = newPeers(s.address, cloud, mark)
	s.book.repeats = version == "5.0"
	s.config = filepath.Join(t.TempDir(), "gateway.yaml")
	s.configure(uplink)
	t.Cleanup(func() {
		if s.cmd != nil {
			s.kill()
		}
		if s.disk != nil {
			s.unmount()
		}
		if t.Failed() {
			t.Logf("the last that the gateway printed:\n%s", s.log.buf)
		}
	})
	return s
}

const hoardSection = `store:
  queue: {messages: 5000, full: drop_oldest}
`

const uplinkSection = `bridges:
  - name: cloud
    version: %s
    url: mqtt://%s
    keep_alive: 5s
    connect_timeout: 2s
    ack_timeout: 2s
    backoff: {min: 100ms, max: 200ms}
    rules:
      - {direction: out, filter: up/#, qos: 2, remote_prefix: greenhouse/}
      - {direction: in, filter: down/#, qos: 2, remote_prefix: greenhouse/}
`

// configure writes the configuration, which names the folder, whose place changes.
func (s *site) configure(uplink string) {
	s.t.Helper()
	if old, err := os.ReadFile(s.config); err == nil {
		_, uplink, _ = strings.Cut(string(old), "anonymous: true\n")
	}
	text := fmt.Sprintf(`gateway:
  id: greenhouse
  data: %s
listeners:
  - name: local
    address: %s
    anonymous: true
`, s.folder, s.address) + uplink
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// delay lets durable messages wait for the disk from the next start on: receivers have some of them
// before they are on disk, and what they acknowledge in time is never written.
func (s *site) delay() { s.extend("store:\n", "  commit_delay: 50ms\n") }

// extend puts a line behind one of the configuration.
func (s *site) extend(line, more string) {
	s.t.Helper()
	old, err := os.ReadFile(s.config)
	if err == nil {
		err = os.WriteFile(s.config, []byte(strings.Replace(string(old), line, line+more, 1)), 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// start runs the gateway and does not wait for it.
func (s *site) start(env ...string) {
	s.t.Helper()
	s.cmd = exec.Command(s.binary, "run", s.config)
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // when the tests are killed
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	exited, cmd := make(chan struct{}), s.cmd
	s.exited = exited
	go func() {
		_ = cmd.Wait() // ProcessState tells
		close(exited)
	}()
}

// kill ends the gateway with SIGKILL and waits until it is gone.
func (s *site) kill() {
	_ = s.cmd.Process.Kill() // it may be gone
	if s.disk != nil {
		s.disk.mu.Lock()
		select {
		case <-s.disk.gone:
		default:
			close(s.disk.gone)
		}
		s.disk.mu.Unlock()
	}
	<-s.exited
}

// interrupt ends the gateway as systemd does, and returns what is wrong with that.
func (s *site) interrupt() []string {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
	select {
	case <-s.exited:
	case <-time.After(10 * time.Second):
		return []string{"the gateway is still there 10s after SIGTERM"}
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		return []string{fmt.Sprintf("the gateway ended with code %d after SIGTERM", code)}
	}
	return nil
}

// cut takes the power away from the gateway and its disk at one instant. The disk keeps what was
// synced, and of the rest what fate decides.
func (s *site) cut(f fate) {
	s.disk.fail()
	s.kill()
	left := s.disk.image(f, s.random)
	s.remount(left)
}

// remount puts a disk with some content where the gateway finds it.
func (s *site) remount(left map[string][]byte) {
	s.t.Helper()
	s.unmount()
	s.disk.restore(left)
	s.folder, s.unmount = s.disk.mount(s.t)
	s.configure("")
}

// copyFolder copies the files in the gateway's folder to another.
func (s *site) copyFolder(to string) error {
	entries, err := os.ReadDir(s.folder)
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue // the socket of a gateway that is dead
		}
		b, err := os.ReadFile(filepath.Join(s.folder, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, e.Name()), b, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return err
}

// inspect looks into the store that a dead gateway has left, without changing it: it is sound, and
// every message that was acknowledged has arrived or waits in it. It returns what is wrong.
func (s *site) inspect() []string {
	s.t.Helper()
	folder := s.t.TempDir()
	if err := s.copyFolder(folder); err != nil {
		return []string{err.Error()}
	}
	waiting, faults := readStore(filepath.Join(folder, "store.db"))
	if faults != nil {
		return faults
	}
	if faults := s.book.hoarded(waiting.queues[atHoard], waiting.dropped); s.hoard != nil && faults != nil {
		return faults
	}
	// What the cloud has acknowledged to the gateway may be on its way to the consumer.
	lost := s.book.lost(waiting.queues)
	for deadline := time.Now().Add(10 * time.Second); len(lost) > 0 && time.Now().Before(deadline); lost = s.book.lost(waiting.queues) {
		if !strings.HasPrefix(lost[0], string(atCloud)) {
			break
		}
		time.Sleep(5 * time.Millisecond) // a poll with a deadline
	}
	return append(lost, s.book.wrong()...)
}

// A stock is what is in a store.
type stock struct {
	queues  backlog
	dropped int64  // from the hoard, and reported
	next    uint64 // position in the hoard
}

// readStore returns what is in a store, and what is wrong with it. One that was never finished has
// nothing, and must be one that a gateway starts with.
func readStore(path string) (stock, []string) {
	in := stock{queues: backlog{atCloud: {}, atLocal: {}, atHoard: {}}, next: 1}
	report, err := offline.Check(path)
	if errors.Is(err, fs.ErrNotExist) {
		return in, openStore(path)
	}
	if err != nil {
		return in, []string{err.Error()}
	}
	if len(report.Problems) > 0 {
		return in, append([]string{"the store is damaged"}, report.Problems...)
	}
	if err := offline.Dump(path, in.add); err != nil {
		return in, []string{err.Error()}
	}
	hoarded := int64(0)
	for _, numbers := range in.queues[atHoard] {
		hoarded += int64(len(numbers))
	}
	if int64(in.next-1) != hoarded+in.dropped {
		return in, []string{fmt.Sprintf("%s: %d messages came, %d wait, and %d were reported as dropped", atHoard, in.next-1, hoarded, in.dropped)}
	}
	return in, nil
}

// add takes one fact of a dump.
func (in *stock) add(c session.Change) error {
	switch c := c.(type) {
	case *session.Enqueued:
		number, _, _ := strings.Cut(string(c.Message.Publish.Payload), " ")
		n, err := strconv.Atoi(number)
		queue, topic := in.queues[placeOf(c.To[0].Client)], c.Message.Publish.Topic
		queue[topic] = append(queue[topic], n)
		return err
	case *session.Summary:
		if placeOf(c.Client) == atHoard {
			in.next = c.Next
		}
	case *session.Dropped:
		if placeOf(c.Client) != atHoard {
			return fmt.Errorf("%s dropped %d messages (%s, %d to %d), though it has room", c.Client, c.Messages, c.Reason, c.First, c.Last)
		}
		in.dropped += c.Messages
	}
	return nil
}

// placeOf tells where a session's messages go.
func placeOf(client string) place {
	switch {
	case client == "hoard":
		return atHoard
	case strings.HasPrefix(client, "$"):
		return atCloud
	}
	return atLocal
}

// openStore opens a store, as the next start of the gateway will, and closes it.
func openStore(path string) []string {
	store, err := offline.Open(path, offline.Options{})
	if err != nil {
		return []string{err.Error()}
	}
	if saved := store.Stats().Salvaged; saved != nil {
		return []string{fmt.Sprintf("a gateway takes the store for damaged: %v", saved.Cause), errors.Join(store.Close()).Error()}
	}
	if err := store.Close(); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// freeAddress returns an address on the loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startCloud starts a mosquitto that lets everybody in, or skips the test if there is none.
func startCloud(t *testing.T) (address string) {
	t.Helper()
	m := newMosquitto(t)
	m.start()
	return m.address
}

// A mosquitto is a cloud that keeps its sessions when it ends in order. When it is killed it loses
// what it has acknowledged.
type mosquitto struct {
	t             *testing.T
	path, address string
	config        string
	cmd           *exec.Cmd
}

func newMosquitto(t *testing.T) *mosquitto {
	t.Helper()
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
			t.Skip("mosquitto is not installed: apt-get install mosquitto")
		}
	}
	m := &mosquitto{t: t, path: path, address: freeAddress(t), config: filepath.Join(t.TempDir(), "mosquitto.conf")}
	_, port, _ := net.SplitHostPort(m.address)
	text := fmt.Sprintf("user root\nlistener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\npersistence true\npersistence_location %s/\n",
		port, t.TempDir())
	if err := os.WriteFile(m.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.die)
	return m
}

// start starts it and waits until it answers.
func (m *mosquitto) start() {
	m.t.Helper()
	m.cmd = exec.Command(m.path, "-c", m.config)
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		conn, err := net.Dial("tcp", m.address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("mosquitto does not answer: %v", err)
		}
		time.Sleep(5 * time.Millisecond) // a poll with a deadline
	}
}

// die ends it in order.
func (m *mosquitto) die() {
	if m.cmd != nil && m.cmd.ProcessState == nil {
		_ = m.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
		_ = m.cmd.Wait()
	}
}
