package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gateway/board/clock"
	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/auth/ban"
	"gateway/broker/auth/device"
	"gateway/broker/auth/service"
	"gateway/broker/topic"
	"gateway/config"
)

// A question is what "gateway explain" is asked.
type question struct {
	client, user, listener, address, certificate string
	groups                                       []string
	qos                                          int
	retain                                       bool
	service                                      bool // the HTTP service is to be asked
}

func newExplain() *cobra.Command {
	q := &question{}
	cmd := &cobra.Command{
		Use:   "explain ACTION TOPIC FILE",
		Short: "Say whether a client may publish, subscribe or receive, and by which rule",
		Long: "Say whether a client may publish, subscribe or receive, and by which rule of the configuration FILE or its\n" +
			"ACL file. The gateway itself need not run; it asks the same rules, and tells clients of MQTT 5.0 the same reason.\n\n" +
			"A device of the registry is held to what the registry says of it, and bans keep out whom they name: read as\n" +
			"the gateway's user. An HTTP service (acl_req) is asked with --ask only. Rules in its answer to a login (acl)\n" +
			"are not known here, nor sessions: a client identifier with which another user has one is refused.",
		Example: "  gateway explain --client panel-7 --user anna publish hall1/lamp/set /etc/gateway/gateway.yaml\n" +
			"  gateway explain --user anna subscribe 'hall1/#' /etc/gateway/gateway.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 3 {
				return usageError{fmt.Errorf("want an action, a topic and the configuration file, not %d arguments", len(args))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := config.Load(args[2])
			if err != nil {
				return usageError{err}
			}
			v, note, err := q.ask(c, args[0], args[1])
			if err != nil {
				return usageError{err}
			}
			if note != "" {
				fmt.Fprintln(cmd.OutOrStdout(), note)
			}
			say(cmd.OutOrStdout(), v)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&q.client, "client", "", "its client identifier")
	flags.StringVar(&q.user, "user", "", "its user name; none: that of its certificate, or it is anonymous")
	flags.StringVar(&q.listener, "listener", "", "the listener that it connects to; none: the first one")
	flags.StringVar(&q.address, "address", "", "the IP address that it comes from")
	flags.StringVar(&q.certificate, "certificate", "", "PEM file of its certificate")
	flags.StringSliceVar(&q.groups, "group", nil, "groups that its login gives it, beside those of the configuration")
	flags.IntVar(&q.qos, "qos", 0, "quality of service of the message or subscription")
	flags.BoolVar(&q.retain, "retain", false, "the message is to be retained")
	flags.BoolVar(&q.service, "ask", false, "ask the HTTP service about its clients, as the gateway would")
	return cmd
}

func say(out io.Writer, v auth.Verdict) {
	word := "denied"
	if v.Allowed {
		word = "allowed"
	}
	fmt.Fprintf(out, "%s: %s\n", word, v.Rule)
}

// outside is the answer about a client that does not come in.
func outside(why error) auth.Verdict {
	return auth.Verdict{Rule: "it does not come in: " + why.Error()}
}

// banned says by which ban a client is kept out; nil: by none. The note is that the bans cannot be read.
func banned(c *config.Config, who *auth.Client) (kept error, note string) {
	list := ban.Open(filepath.Join(c.Gateway.Data, bansFile), time.Now)
	if _, err := list.All(); err != nil {
		return nil, fmt.Sprintf("the bans cannot be read (%v); without them:", err)
	}
	return list.NewCheck(slog.New(slog.DiscardHandler)).Client(who), ""
}

// ask returns the answer to a question, and if that is not all that is to be said, what comes before it.
func (q *question) ask(c *config.Config, action, name string) (v auth.Verdict, note string, err error) {
	l, err := q.on(c)
	if err != nil {
		return v, "", err
	}
	r, err := q.request(c, l, action, name)
	if err != nil {
		return v, "", err
	}
	who, err := q.who(l)
	if err != nil {
		return v, "", err
	}
	kept, note := banned(c, who)
	if kept != nil {
		return outside(kept), "", nil
	}
	v, more, err := q.within(c, l, who, r, name)
	return v, strings.Trim(note+"\n"+more, "\n"), err
}

// within is ask about a client that is not banned.
func (q *question) within(c *config.Config, l config.Listener, who *auth.Client, r auth.Request, name string) (v auth.Verdict, note string, err error) {
	a, err := openAccess(c)
	if err != nil {
		return v, "", err
	}
	kept, err := q.login(c, l, a, who)
	if err != nil {
		return v, "", err
	}
	if kept != nil {
		return outside(kept), "", nil
	}
	if broker.Reserved(name) && r.Action == auth.Publish {
		return auth.Verdict{Rule: "topics below $SYS/, $bridge/ and $dead/ are the gateway's own"}, "", nil
	}
	if l.Prefix != "" && name[0] == '$' && r.Action == auth.Publish {
		return auth.Verdict{Rule: "topics that begin with $ are not for this listener's clients"}, "", nil
	}
	rules := a.of(l)
	if who.By == service.By && c.Auth.HTTP.ACL != nil {
		if r.Action == auth.Receive {
			rules = askedFirst{silent{}, a.rest(l), rules}
			return auth.Decide(context.Background(), who, rules, r), "the HTTP service decides by the filter that it subscribes with (acl_req). If that is allowed:", nil
		}
		if !q.service {
			note = "the HTTP service is asked first (acl_req), and what it refuses is denied; --ask does that now. If it leaves it to the gateway:"
			rules = askedFirst{silent{}, a.rest(l), rules}
			return decide(who, rules, r), note, nil
		}
		s, err := askingService(c)
		if err != nil {
			return v, "", err
		}
		defer s.Close()
		asked, _ := s.Rules()
		rules = askedFirst{asked, a.rest(l), rules}
	}
	return decide(who, rules, r), "", nil
}

// decide answers as the broker does. What a client may receive is what no rule keeps from it of what it may
// subscribe to.
func decide(who *auth.Client, rules auth.Authorizer, r auth.Request) auth.Verdict {
	v := auth.Decide(context.Background(), who, rules, r)
	if r.Action != auth.Receive || !v.Allowed {
		return v
	}
	of := auth.Decide(context.Background(), who, rules, auth.Request{Action: auth.Subscribe, Topic: r.Topic})
	if !of.Allowed {
		return auth.Verdict{Rule: "it may not subscribe to it: " + of.Rule}
	}
	return v
}

// silent is a service that leaves everything to others.
type silent struct{}

func (silent) Authorize(context.Context, *auth.Client, auth.Request) auth.Verdict {
	return auth.Verdict{}
}

// askingService returns the HTTP service for one question, beside a gateway that may run: what that keeps
// is read and left alone.
func askingService(c *config.Config) (*service.Service, error) {
	o, err := serviceOptions(c, clock.New(built()), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	o.GraceReadOnly = true
	return service.New(o)
}

// request returns what a client of a listener wants to do.
func (q *question) request(c *config.Config, l config.Listener, action, name string) (auth.Request, error) {
	r := auth.Request{QoS: byte(q.qos), Retain: q.retain, Topic: name}
	valid := topic.ValidName
	switch action {
	case "publish":
	case "receive":
		r.Action = auth.Receive
	case "subscribe":
		r.Action, valid = auth.Subscribe, topic.ValidFilter
		if _, rest, shared, err := topic.ParseShared(name); shared && err == nil {
			r.Topic = rest
		}
	default:
		return r, fmt.Errorf("a client wants to publish, subscribe or receive, not to %q", action)
	}
	if err := valid(name); err != nil {
		return r, fmt.Errorf("%q: %w", name, err)
	}
	if q.qos < 0 || q.qos > 2 {
		return r, fmt.Errorf("--qos is from 0 to 2, not %d", q.qos)
	}
	if !strings.HasPrefix(r.Topic, "$SYS/") {
		r.Topic = l.Prefix + r.Topic
	}
	r.Command = r.Action == auth.Publish && slices.Contains(commandTopics(c), r.Topic)
	return r, nil
}

// who returns the client that is meant.
func (q *question) who(l config.Listener) (*auth.Client, error) {
	who := &auth.Client{Identity: auth.Identity{User: q.user, Groups: q.groups}, ID: q.client, Listener: l.Name}
	var err error
	if q.address != "" {
		if who.Addr, err = netip.ParseAddr(q.address); err != nil {
			return nil, fmt.Errorf("--address: %w", err)
		}
		who.Addr = auth.Address(who.Addr)
	}
	if q.certificate != "" {
		if who.Certificate, err = certificateOf(q.certificate); err == nil {
			err = named(who, l)
		}
		if err != nil {
			return nil, fmt.Errorf("--certificate %s: %w", q.certificate, err)
		}
	}
	return who, nil
}

// login finds out which way to log in decides about a client, and says why it does not come in if that
// can be told without its password.
func (q *question) login(c *config.Config, l config.Listener, a *access, who *auth.Client) (kept, err error) {
	for _, way := range l.Auth {
		switch {
		case way == "certificate" && who.Certificate != nil, way == "passwords" && a.users.Has(who.User):
			return nil, nil
		case way == "http":
			who.By = service.By
			return nil, nil
		case way != "device":
			continue
		}
		all, err := device.Open(filepath.Join(c.Gateway.Data, devicesFile)).List()
		if err != nil {
			return nil, fmt.Errorf("the registry of devices: %w", err)
		}
		i := slices.IndexFunc(all, func(d device.Device) bool { return d.Name == who.User })
		if i < 0 {
			continue
		}
		who.By = device.By
		d := all[i]
		if q.client == "" {
			d.ClientID = "" // it is not said what it calls itself
		}
		if kept := d.Admit(q.client, time.Now()); kept != nil || !who.Addr.IsValid() {
			return kept, nil
		}
		return d.From(net.TCPAddrFromAddrPort(netip.AddrPortFrom(who.Addr, 0))), nil
	}
	return nil, nil
}

// on returns the listener that is meant.
func (q *question) on(c *config.Config) (config.Listener, error) {
	var names []string
	for _, l := range c.Listeners {
		if q.listener == "" || l.Name == q.listener {
			return l, nil
		}
		names = append(names, l.Name)
	}
	return config.Listener{}, fmt.Errorf("there is no listener %q, but %q", q.listener, names)
}

// named gives a client without a user name those of its certificate.
func named(c *auth.Client, l config.Listener) error {
	if c.User != "" {
		return nil
	}
	id, err := auth.Certificate{User: l.Names.User, ClientID: l.Names.ClientID}.Authenticate(context.Background(), auth.Attempt{Certificate: c.Certificate})
	c.User = id.User
	if id.ClientID != "" {
		c.ID = id.ClientID
	}
	return err
}

// certificateOf reads the first certificate of a PEM file.
func certificateOf(path string) (*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}
