package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	mqtt "github.com/eclipse/paho.mqtt.golang"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// A matrix is the ways to one gateway, for the clients of others.
type matrix struct {
	a      *authority
	device pair
	lines  []line
}

// certificates returns the arguments of a program for the files that a line needs, with the names
// of the options before them, if these are not empty.
func (m *matrix) certificates(l line, ca, cert, key string) (args []string) {
	add := func(option, file string) {
		if option != "" {
			args = append(args, option)
		}
		args = append(args, file)
	}
	if l.tls {
		add(ca, m.a.file)
	}
	if l.mutual {
		add(cert, m.device.cert)
		add(key, m.device.key)
	}
	return args
}

// place returns the options of the mosquitto clients for a line; ok is false for one that they
// cannot take, since they have no WebSocket.
func (m *matrix) place(t *testing.T, l line) (args []string, ok bool) {
	t.Helper()
	scheme, rest, _ := strings.Cut(l.url, "://")
	switch {
	case strings.HasPrefix(scheme, "ws"):
		return nil, false
	case scheme == "unix":
		return []string{"--unix", rest}, true
	}
	host, port, err := net.SplitHostPort(rest)
	if err != nil {
		t.Fatal(err)
	}
	return append(m.certificates(l, "--cafile", "--cert", "--key"), "-h", host, "-p", port), true
}

// path adds the customary path to the URL of a WebSocket.
func path(u string) string {
	if strings.HasPrefix(u, "ws") {
		return u + "/mqtt"
	}
	return u
}

func (m *matrix) mosquitto(t *testing.T) {
	pub := program(t, "mosquitto_pub", "mosquitto-clients")
	for i, l := range m.lines {
		place, ok := m.place(t, l)
		if !ok {
			continue
		}
		for _, version := range []string{"31", "311", "5"} {
			topic := fmt.Sprintf("matrix/mosquitto/%d/%s", i, version)
			args := append(place, "-V", version, "-q", "2", "-t", topic, "-i", "m"+version)
			try(t, pub, append(args, "-r", "-m", "hello")...)
			if got := try(t, strings.Replace(pub, "_pub", "_sub", 1), append(args, "-C", "1", "-W", "10")...); got != "hello" {
				t.Errorf("%s, %s: got %q", l.name, version, got)
			}
		}
	}
}

// request asks with mosquitto_rr, over each line, something that a client of the first one answers.
func (m *matrix) request(t *testing.T) {
	rr := program(t, "mosquitto_rr", "mosquitto-clients")
	asked := make(chan packet.Publish, 1) // mosquitto_rr asks one question, and waits
	answerer, err := client.Dial(t.Context(), m.lines[0].url, client.Options{Version: packet.V5, Receive: func(p packet.Publish) {
		p.Payload = bytes.Clone(p.Payload)
		asked <- p
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer answerer.Close()
	if _, err := answerer.Subscribe(t.Context(), packet.Subscription{Filter: "matrix/ask/#", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	for i, l := range m.lines {
		place, ok := m.place(t, l)
		if !ok {
			continue
		}
		for _, version := range []string{"311", "5"} {
			ask, answer := fmt.Sprintf("matrix/ask/%d/%s", i, version), fmt.Sprintf("matrix/answer/%d/%s", i, version)
			done := make(chan struct{})
			go func() {
				defer close(done)
				select {
				case p := <-asked:
					reply := packet.Publish{Topic: answer, QoS: 1, Payload: append([]byte("answer to "), p.Payload...)}
					if x := p.Properties; version == "5" && (x == nil || x.ResponseTopic != answer) {
						t.Errorf("%s: the response topic has not come: %+v", l.name, x)
					} else if x != nil {
						reply.Properties = &packet.PublishProperties{CorrelationData: x.CorrelationData}
					}
					if _, err := answerer.Publish(t.Context(), reply); err != nil {
						t.Error(err)
					}
				case <-time.After(15 * time.Second):
					t.Errorf("%s, %s: nothing is asked", l.name, version)
				}
			}()
			if got := try(t, rr, append(place, "-V", version, "-q", "1", "-W", "10", "-t", ask, "-e", answer, "-m", "hello")...); got != "answer to hello" {
				t.Errorf("%s, %s: got %q", l.name, version, got)
			}
			<-done
		}
	}
}

func (m *matrix) mqttJS(t *testing.T) {
	node := mqttJS(t)
	for _, l := range m.lines {
		if strings.HasPrefix(l.url, "unix:") {
			continue // its URLs have no sockets
		}
		for _, version := range []string{"3", "4", "5"} {
			args := append([]string{"testdata/mqtt.mjs", path(l.url), version}, m.certificates(l, "", "", "")...)
			if got := try(t, node, args...); got != "well" {
				t.Errorf("%s, %s: %s", l.name, version, got)
			}
		}
	}
}

func (m *matrix) pahoPython(t *testing.T) {
	// Debian's package is for Debian's Python, which need not be the first one in the path.
	python := "/usr/bin/python3"
	if exec.Command(python, "-c", "import paho.mqtt.client").Run() != nil {
		python = program(t, "python3", "python3-paho-mqtt")
		if exec.Command(python, "-c", "import paho.mqtt.client").Run() != nil {
			lacks(t, "Paho for Python is missing: apt-get install python3-paho-mqtt")
		}
	}
	for _, l := range m.lines {
		if strings.HasPrefix(l.url, "unix:") {
			continue // the version of Debian 12 has none
		}
		for _, version := range []string{"3", "4", "5"} {
			args := append([]string{"testdata/pahoclient.py", path(l.url), version}, m.certificates(l, "", "", "")...)
			if got := try(t, python, args...); got != "well" {
				t.Errorf("%s, %s: %s", l.name, version, got)
			}
		}
	}
}

// wanted are the messages that a client of Paho for Go sends to itself: the last are more than one
// frame of many clients.
func wanted() (messages []packet.Publish) {
	for _, size := range []int{0, 100, 70_000} {
		for qos := range 3 {
			messages = append(messages, packet.Publish{QoS: packet.QoS(qos), Payload: bytes.Repeat([]byte{byte('a' + qos)}, size)})
		}
	}
	return messages
}

// compare waits for the messages of wanted.
func compare(t *testing.T, where string, got <-chan packet.Publish) {
	t.Helper()
	late := time.After(10 * time.Second)
	for i, want := range wanted() {
		select {
		case p := <-got:
			if p.QoS != want.QoS || !bytes.Equal(p.Payload, want.Payload) {
				t.Errorf("%s: message %d is one of %d bytes at QoS %d, want %d at QoS %d", where, i, len(p.Payload), p.QoS, len(want.Payload), want.QoS)
			}
		case <-late:
			t.Errorf("%s: message %d does not come", where, i)
			return
		}
	}
}

// pahoGo is Paho for Go with 3.1 and 3.1.1.
func (m *matrix) pahoGo(t *testing.T) {
	for i, l := range m.lines {
		for _, version := range []uint{3, 4} {
			where, topic := fmt.Sprintf("%s, %d", l.name, version), fmt.Sprintf("matrix/go/%d/%d", i, version)
			got := make(chan packet.Publish, len(wanted()))
			o := mqtt.NewClientOptions().AddBroker(path(l.url)).SetClientID("paho-go").SetProtocolVersion(version).
				SetAutoReconnect(false).SetConnectTimeout(10 * time.Second)
			if l.tls {
				o.SetTLSConfig(m.a.client(m.device))
			}
			c := mqtt.NewClient(o)
			wait := func(what string, token mqtt.Token) bool {
				t.Helper()
				if !token.WaitTimeout(10*time.Second) || token.Error() != nil {
					t.Errorf("%s: %s: %v", where, what, token.Error())
					return false
				}
				return true
			}
			if !wait("CONNECT", c.Connect()) {
				continue
			}
			wait("SUBSCRIBE", c.Subscribe(topic, 2, func(_ mqtt.Client, p mqtt.Message) {
				got <- packet.Publish{QoS: packet.QoS(p.Qos()), Payload: p.Payload()}
			}))
			for _, p := range wanted() {
				wait("PUBLISH", c.Publish(topic, byte(p.QoS), false, p.Payload))
			}
			compare(t, where, got)
			c.Disconnect(250)
		}
	}
}

// pahoGo5 is Paho for Go with 5.0.
func (m *matrix) pahoGo5(t *testing.T) {
	for i, l := range m.lines {
		u, err := url.Parse(path(l.url))
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan packet.Publish, len(wanted()))
		config := autopaho.ClientConfig{ServerUrls: []*url.URL{u}, KeepAlive: 30, CleanStartOnInitialConnection: true}
		config.ClientID = "paho-go-5"
		config.OnPublishReceived = []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
			got <- packet.Publish{QoS: packet.QoS(p.Packet.QoS), Payload: p.Packet.Payload}
			return true, nil
		}}
		if l.tls {
			config.TlsCfg = m.a.client(m.device)
		}
		if u.Scheme == "unix" {
			config.AttemptConnection = func(ctx context.Context, _ autopaho.ClientConfig, u *url.URL) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", u.Path)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		c, err := autopaho.NewConnection(ctx, config)
		if err == nil {
			err = c.AwaitConnection(ctx)
		}
		topic := fmt.Sprintf("matrix/go5/%d", i)
		if err == nil {
			_, err = c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: topic, QoS: 2}}})
		}
		for _, p := range wanted() {
			if err == nil {
				_, err = c.Publish(ctx, &paho.Publish{Topic: topic, QoS: byte(p.QoS), Payload: p.Payload})
			}
		}
		if err != nil {
			t.Errorf("%s: %v", l.name, err)
		} else {
			compare(t, l.name, got)
			err = c.Disconnect(ctx)
		}
		cancel()
		if err != nil {
			t.Errorf("%s: %v", l.name, err)
		}
	}
}

// program returns the path of a program, or skips the test.
func program(t *testing.T, name, debian string) string {
	t.Helper()
	found, err := exec.LookPath(name)
	if err != nil {
		lacks(t, "%s is missing: apt-get install %s", name, debian)
	}
	return found
}

// lacks skips a test for want of something that this machine does not have. Where CI is set there is
// nobody to read that: the test fails.
func lacks(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
