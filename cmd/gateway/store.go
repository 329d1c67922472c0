package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"gateway/broker/auth"
	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/offline"
)

func newStore() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Look into the durable store of a gateway, copy it, and put it back",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("say store stat, check, dump, compact, backup, restore or dead")}
		},
	}
	cmd.AddCommand(newStoreStat(), newStoreCheck(), newStoreDump(), newStoreCompact(), newStoreBackup(), newStoreRestore(), newStoreDead())
	return cmd
}

// oneStore wants the file of a store as the only argument.
func oneStore(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{fmt.Errorf("want the file of one store, not %d arguments", len(args))}
	}
	return nil
}

func newStoreCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Read all of a store and say what is in it and what is wrong with it",
		Long: "Read all of a store and say what is in it and what is wrong with it. The file is not changed.\n" +
			"A gateway that starts on a damaged store sets it aside and saves what can be read.",
		Example: "  gateway store check /var/lib/gateway/store.db",
		Args:    oneStore,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := offline.Check(args[0])
			if err != nil {
				return err
			}
			return printReport(cmd.OutOrStdout(), args[0], r)
		},
	}
}

// printReport prints counts and problems, and returns an error if there are problems.
func printReport(w io.Writer, name string, r offline.Report) error {
	for _, line := range []struct {
		what  string
		count int64
	}{
		{"bytes", r.FileBytes},
		{"sessions", int64(r.Sessions)},
		{"subscriptions", int64(r.Subscriptions)},
		{"received identifiers", int64(r.Received)},
		{"waiting messages", r.Messages},
		{"waiting bytes", r.Bytes},
		{"messages to sweep", r.Dead},
		{"shared messages", int64(r.Bodies)},
		{"retained messages", int64(r.Retained)},
	} {
		if _, err := fmt.Fprintf(w, "%-22s %d\n", line.what, line.count); err != nil {
			return err
		}
	}
	for _, p := range r.Problems {
		fmt.Fprintln(w, "problem:", p)
	}
	if r.Omitted > 0 {
		fmt.Fprintf(w, "problem: and %d more\n", r.Omitted)
	}
	if n := len(r.Problems) + r.Omitted; n > 0 {
		return fmt.Errorf("%s has %d problems: start the gateway on it, which saves what can be read", name, n)
	}
	return nil
}

func newStoreDump() *cobra.Command {
	limit := 256
	cmd := &cobra.Command{
		Use:   "dump FILE",
		Short: "Print all facts in a store, one JSON object a line",
		Long: "Print all facts in a store, one JSON object a line: for each session opened, subscribed and closed,\n" +
			"then every waiting message as enqueued (and advanced, if its PUBREC has come), then a summary of\n" +
			"each session, then every retained message. Payloads below $CONTROL/ are hidden. The file is not changed.",
		Example: "  gateway store dump /var/lib/gateway/store.db | jq 'select(.fact == \"enqueued\") | .topic'",
		Args:    oneStore,
		RunE: func(cmd *cobra.Command, args []string) error {
			w := bufio.NewWriter(cmd.OutOrStdout())
			lines := json.NewEncoder(w)
			lines.SetEscapeHTML(false)
			err := offline.Dump(args[0], func(c session.Change) error { return lines.Encode(factLine(c, limit)) })
			return errors.Join(err, w.Flush())
		},
	}
	cmd.Flags().IntVar(&limit, "payload-bytes", limit, "bytes of each payload to print; -1 prints all")
	return cmd
}

// factLine returns what is printed for one fact.
func factLine(c session.Change, limit int) any {
	type head struct {
		Fact   string `json:"fact"`
		Client string `json:"client"`
	}
	switch c := c.(type) {
	case *session.Opened:
		line := struct {
			head
			Incarnation uint64       `json:"incarnation"`
			Version     byte         `json:"protocol_level"`
			Expiry      uint32       `json:"expiry_s"`
			User        *string      `json:"user,omitempty"` // not there: not known
			Will        *messageLine `json:"will,omitempty"`
			WillDelay   uint32       `json:"will_delay_s,omitempty"`
		}{head: head{"opened", c.Client}, Incarnation: c.Incarnation, Version: byte(c.Version), Expiry: c.Expiry}
		if o := c.Owner; o != nil {
			line.User = &o.User
		}
		if w := c.Will; w != nil {
			will := newMessageLine(packet.Publish{
				Topic: w.Topic, Payload: w.Payload, QoS: w.QoS, Retain: w.Retain, Properties: w.Properties,
			}, limit)
			line.Will, line.WillDelay = &will, w.Delay
		}
		return line
	case *session.Closed:
		return struct {
			head
			At     time.Time `json:"at"`
			Sent   uint64    `json:"sent_before,omitempty"` // not there: not known
			Shares bool      `json:"shares,omitempty"`
		}{head{"closed", c.Client}, c.At.UTC(), c.Sent, c.Shares}
	case *session.Subscribed:
		return struct {
			head
			Filter            string `json:"filter"`
			QoS               byte   `json:"qos"`
			NoLocal           bool   `json:"no_local"`
			RetainAsPublished bool   `json:"retain_as_published"`
			RetainHandling    byte   `json:"retain_handling"`
			ID                uint32 `json:"subscription_id,omitempty"`
		}{head{"subscribed", c.Client}, c.Subscription.Filter, byte(c.Subscription.QoS), c.Subscription.NoLocal,
			c.Subscription.RetainAsPublished, c.Subscription.RetainHandling, c.ID}
	case *session.Enqueued:
		return newEnqueuedLine(c, limit)
	case *session.Advanced:
		return struct {
			head
			Position uint64 `json:"position"`
			Stage    string `json:"stage"`
		}{head{"advanced", c.Client}, c.Position, stageName(c.Stage)}
	case *session.Summary:
		stages := make(map[uint64]string)
		for position, stage := range c.Stages {
			stages[position] = stageName(stage)
		}
		return struct {
			head
			Head     uint64            `json:"head"`
			Next     uint64            `json:"next"`
			Messages int64             `json:"messages"`
			Bytes    int64             `json:"bytes"`
			Stages   map[uint64]string `json:"stages"`
			Received []uint16          `json:"received"`
			Strange  uint64            `json:"strange_before,omitempty"`
			Expiring bool              `json:"expiring,omitempty"`
		}{head{"summary", c.Client}, c.Head, c.Next, c.Messages, c.Bytes, stages, c.Received, c.Strange, c.Expiring}
	case *session.Dropped:
		return struct {
			head
			Rule     string    `json:"rule,omitempty"`
			Reason   string    `json:"reason"`
			Messages int64     `json:"messages"`
			Bytes    int64     `json:"bytes"`
			First    uint64    `json:"first"`
			Last     uint64    `json:"last"`
			Since    time.Time `json:"since"`
			Until    time.Time `json:"until"`
		}{head{"dropped", c.Client}, c.Filter, c.Reason.String(), c.Messages, c.Bytes, c.First, c.Last, c.Since.UTC(), c.Until.UTC()}
	case *session.Retained:
		return struct {
			Fact string `json:"fact"`
			messageLine
			timeLine
		}{"retained", newMessageLine(c.Message.Publish, limit), newTimeLine(c.Message)}
	}
	return head{Fact: fmt.Sprintf("%T", c)}
}

// newEnqueuedLine is for a message with one target, as a dump has them.
func newEnqueuedLine(c *session.Enqueued, limit int) any {
	to := c.To[0]
	return struct {
		Fact            string   `json:"fact"`
		Client          string   `json:"client"`
		Position        uint64   `json:"position"`
		DeliveryQoS     byte     `json:"delivery_qos"`
		DeliveryRetain  bool     `json:"delivery_retain"`
		SubscriptionIDs []uint32 `json:"subscription_ids,omitempty"`
		Share           string   `json:"share,omitempty"`
		messageLine
		timeLine
	}{"enqueued", to.Client, to.Position, byte(to.QoS), to.Retain, to.SubscriptionIDs, to.Share,
		newMessageLine(c.Message.Publish, limit), newTimeLine(c.Message)}
}

func stageName(s session.Stage) string {
	switch s {
	case session.Pending:
		return "pending"
	case session.Accepted:
		return "accepted"
	}
	return "done"
}

// A timeLine is when a message was taken, by the wall clock of that moment.
type timeLine struct {
	At     time.Time `json:"at"`
	Waited float64   `json:"waited_s,omitempty"`
}

func newTimeLine(m *session.Message) timeLine {
	return timeLine{m.At.UTC(), m.Waited.Seconds()}
}

// A messageLine is a message as it was published.
type messageLine struct {
	Topic  string `json:"topic"`
	QoS    byte   `json:"qos"`
	Retain bool   `json:"retain"`
	Bytes  int    `json:"payload_bytes"`
	Hidden bool   `json:"payload_hidden,omitempty"` // it is one of administration
	// One of these two, cut at the limit.
	Text   *string `json:"payload,omitempty"`
	Binary []byte  `json:"payload_base64,omitempty"`

	PayloadFormat   *byte       `json:"payload_format,omitempty"`
	Expiry          *uint32     `json:"message_expiry_s,omitempty"`
	ResponseTopic   string      `json:"response_topic,omitempty"`
	CorrelationData []byte      `json:"correlation_data_base64,omitempty"`
	ContentType     *string     `json:"content_type,omitempty"`
	User            [][2]string `json:"user_properties,omitempty"`
}

func newMessageLine(p packet.Publish, limit int) messageLine {
	line := messageLine{Topic: p.Topic, QoS: byte(p.QoS), Retain: p.Retain, Bytes: len(p.Payload)}
	text := isText(p.Payload)
	shown := p.Payload
	if limit >= 0 && len(shown) > limit {
		shown = shown[:limit]
		for text && len(shown) > 0 && !utf8.Valid(shown) { // not within a character
			shown = shown[:len(shown)-1]
		}
	}
	switch {
	case strings.HasPrefix(p.Topic, auth.Control): // an early version kept answers with secrets
		line.Hidden = true
	case text:
		s := string(shown)
		line.Text = &s
	default:
		line.Binary = shown
	}
	if pp := p.Properties; pp != nil {
		line.ResponseTopic, line.CorrelationData = pp.ResponseTopic, pp.CorrelationData
		if pp.PayloadFormat != 0 || pp.PayloadUnspecified {
			line.PayloadFormat = &pp.PayloadFormat
		}
		if pp.ContentType != "" || pp.EmptyContentType {
			line.ContentType = &pp.ContentType
		}
		if pp.HasMessageExpiry {
			line.Expiry = &pp.MessageExpiry
		}
		for _, u := range pp.User {
			line.User = append(line.User, [2]string{u.Name, u.Value})
		}
	}
	return line
}

// isText reports whether a payload is text that a terminal can show.
func isText(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if !unicode.IsPrint(r) && r != '\n' && r != '\t' {
			return false
		}
	}
	return true
}
