package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/topic"
	"gateway/config"
)

// A question is what "gateway explain" is asked.
type question struct {
	client, user, listener, address, certificate string
	groups                                       []string
	qos                                          int
	retain                                       bool
}

func newExplain() *cobra.Command {
	q := &question{}
	cmd := &cobra.Command{
		Use:   "explain ACTION TOPIC FILE",
		Short: "Say whether a client may publish, subscribe or receive, and by which rule",
		Long: "Say whether a client may publish, subscribe or receive, and by which rule of the configuration FILE or its\n" +
			"ACL file. The gateway itself need not run; it asks the same rules, and tells clients of MQTT 5.0 the same reason.\n\n" +
			"What came with a login, the rules of an HTTP service or of a device, is not known here.",
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
			v, err := q.ask(c, args[0], args[1])
			if err != nil {
				return usageError{err}
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
	return cmd
}

func say(out io.Writer, v auth.Verdict) {
	word := "denied"
	if v.Allowed {
		word = "allowed"
	}
	fmt.Fprintf(out, "%s: %s\n", word, v.Rule)
}

// ask returns the answer to a question.
func (q *question) ask(c *config.Config, action, name string) (auth.Verdict, error) {
	l, err := q.on(c)
	if err != nil {
		return auth.Verdict{}, err
	}
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
		return auth.Verdict{}, fmt.Errorf("a client wants to publish, subscribe or receive, not to %q", action)
	}
	if err := valid(name); err != nil {
		return auth.Verdict{}, fmt.Errorf("%q: %w", name, err)
	}
	if q.qos < 0 || q.qos > 2 {
		return auth.Verdict{}, fmt.Errorf("--qos is from 0 to 2, not %d", q.qos)
	}
	if broker.Reserved(name) && r.Action == auth.Publish {
		return auth.Verdict{Rule: "topics below $SYS/, $bridge/ and $dead/ are the gateway's own"}, nil
	}
	if l.Prefix != "" && name[0] == '$' && r.Action == auth.Publish {
		return auth.Verdict{Rule: "topics that begin with $ are not for the clients of a listener with a prefix"}, nil
	}
	if !strings.HasPrefix(r.Topic, "$SYS/") {
		r.Topic = l.Prefix + r.Topic
	}
	r.Command = r.Action == auth.Publish && slices.Contains(commandTopics(c), r.Topic)
	who := auth.Client{Identity: auth.Identity{User: q.user, Groups: q.groups}, ID: q.client, Listener: l.Name}
	if q.address != "" {
		if who.Addr, err = netip.ParseAddr(q.address); err != nil {
			return auth.Verdict{}, fmt.Errorf("--address: %w", err)
		}
	}
	if q.certificate != "" {
		if who.Certificate, err = certificateOf(q.certificate); err != nil {
			return auth.Verdict{}, fmt.Errorf("--certificate %s: %w", q.certificate, err)
		}
		if err := named(&who, l); err != nil {
			return auth.Verdict{}, fmt.Errorf("--certificate %s: %w", q.certificate, err)
		}
	}
	a, err := openAccess(c)
	if err != nil {
		return auth.Verdict{}, err
	}
	return auth.Decide(context.Background(), &who, a.of(l), r), nil
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
