package broker_test

import (
	"net"
	"net/netip"
	"testing"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/auth/acl"
	"gateway/broker/packet"
)

// A distant listener says that its clients come from an address.
type distant struct {
	net.Listener
	from net.TCPAddr
}

func (d distant) Accept() (net.Conn, error) {
	nc, err := d.Listener.Accept()
	return remote{nc, &d.from}, err
}

type remote struct {
	net.Conn
	from *net.TCPAddr
}

func (r remote) RemoteAddr() net.Addr { return r.from }

// A rule for a network has the link-local addresses in it, by whatever interface they are reached.
func TestAddressWithZone(t *testing.T) {
	open := start(t, nil, broker.Limits{})
	law := acl.Law{Rules: []acl.Rule{
		{Actions: []auth.Action{auth.Publish}, Topics: []string{"#"}, MaxQoS: 2, Addresses: []netip.Prefix{netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("10.0.0.0/8")}},
		{Allow: true, Actions: []auth.Action{auth.Publish}, Topics: []string{"#"}, MaxQoS: 2},
	}}.Prepare()
	for from, want := range map[string]string{
		"fe80::1%eth0": "PUBACK 1 Not authorized", "fe80::1": "PUBACK 1 Not authorized", "::ffff:10.0.0.1": "PUBACK 1 Not authorized",
		"fd00::1": "PUBACK 1 No matching subscribers",
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		addr := netip.MustParseAddr(from)
		go func() {
			served <- open.server.Serve(distant{ln, net.TCPAddr{IP: addr.AsSlice(), Zone: addr.Zone(), Port: 1}}, broker.Listener{Name: "far", Auth: auth.Anonymous{}, Rules: law})
		}()
		t.Cleanup(func() {
			open.stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
		w := (&site{t: t, server: open.server, address: ln.Addr().String()}).connect(packet.V5, clean("c"))
		w.send(publish("x", "1", 1, 1))
		w.expect(want)
		w.send(&packet.Disconnect{})
		w.expect("closed")
	}
}
