package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// A subscriber is what "gateway sub" was asked to print.
type subscriber struct {
	connection
	filters       []string
	qos           qos
	count         int
	wait, again   seconds
	verbose, json bool
	keep          bool
	noRetained    bool
	out           io.Writer
}

func newSub() *cobra.Command {
	s := &subscriber{qos: 1}
	cmd := &cobra.Command{
		Use:   "sub FILTER...",
		Short: "Print messages as they arrive",
		Long: "Subscribe to one or more topic filters and print every message on a line of its own.\n\n" +
			"A payload that is no printable text is printed in quotes; -v=false prints the bare payload instead.",
		Example: "  gateway sub 'greenhouse/#'\n" +
			"  gateway sub -C 1 -W 5 greenhouse/vent/state",
		Args: func(_ *cobra.Command, args []string) error { return s.arguments(args) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			s.out = cmd.OutOrStdout()
			return s.run(ctx)
		},
	}
	s.register(cmd)
	flags := cmd.Flags()
	flags.StringArrayVarP(&s.filters, "topic", "t", nil, "topic filter, instead of or besides the arguments")
	flags.VarP(&s.qos, "qos", "q", "highest quality of service: 0, 1 or 2")
	flags.IntVarP(&s.count, "count", "C", 0, "end after this many messages")
	flags.VarP(&s.wait, "wait", "W", "end after this time, in seconds or as in 1m30s")
	flags.BoolVarP(&s.verbose, "verbose", "v", true, "print the topic before the payload")
	flags.BoolVar(&s.json, "json", false, "print messages as JSON objects")
	flags.BoolVarP(&s.keep, "disable-clean-session", "c", false, "resume the session of this --id and leave it behind, so that the broker keeps messages meanwhile")
	flags.Var(&s.again, "reauthenticate", "authenticate again every so often, with --auth")
	flags.BoolVarP(&s.noRetained, "no-retained", "R", false, "do not print retained messages")
	return cmd
}

func (s *subscriber) arguments(args []string) error {
	s.filters = append(s.filters, args...)
	switch {
	case len(s.filters) == 0:
		return usageError{errors.New(`which topics? as in: gateway sub 'greenhouse/#'`)}
	case s.count < 0:
		return usageError{fmt.Errorf("-C %d: want 1 or more", s.count)}
	case s.again != 0 && !strings.HasPrefix(s.method, "SCRAM-"):
		return usageError{errors.New("--reauthenticate is for --auth SCRAM-…")}
	case s.keep && s.id == "":
		return usageError{errors.New("-c resumes the session of a client: name it with -i")}
	}
	return nil
}

func (s *subscriber) run(ctx context.Context) error {
	received, failed := 0, error(nil) // the reader's, until the client has ended
	enough := make(chan struct{})     // closed after the last message that is wanted
	options := client.Options{
		KeepSession: s.keep,
		Receive: func(p packet.Publish) {
			if failed != nil || s.count > 0 && received == s.count || s.noRetained && p.Retain {
				return
			}
			received++
			if failed = s.print(p); failed != nil || received == s.count {
				close(enough)
			}
		},
	}
	if s.keep {
		options.SessionExpiry = 0xFFFFFFFF
	}
	c, err := s.dial(ctx, options)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := s.subscribe(ctx, c); err != nil {
		return err
	}
	if err := s.await(ctx, c, enough); err != nil {
		return err
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = c.Disconnect(ending) // all that was wanted has been printed
	if failed != nil {
		return failed
	}
	if ctx.Err() == nil && received < s.count {
		return fmt.Errorf("%d of %d messages within %v", received, s.count, time.Duration(s.wait))
	}
	return nil
}

// await returns when nothing more is wanted, or when the connection has ended, which is an error.
func (s *subscriber) await(ctx context.Context, c *client.Client, enough <-chan struct{}) error {
	timedOut := s.wait.after()
	for {
		select {
		case <-enough:
			return nil
		case <-timedOut:
			return nil
		case <-ctx.Done():
			return nil
		case <-c.Done():
			return fmt.Errorf("the connection ended: %w", c.Err())
		case <-s.again.after():
			if err := s.reauthenticate(ctx, c); err != nil {
				return err
			}
		}
	}
}

func (s *subscriber) subscribe(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	subscriptions := make([]packet.Subscription, len(s.filters))
	for i, filter := range s.filters {
		subscriptions[i] = packet.Subscription{Filter: filter, QoS: packet.QoS(s.qos)}
	}
	reasons, err := c.Subscribe(ctx, subscriptions...)
	if err != nil {
		return err
	}
	for i, r := range reasons {
		if r.Failed() {
			return fmt.Errorf("the broker refuses the subscription to %q: %v", s.filters[i], r)
		}
	}
	return nil
}

// print writes one message as one line, or with -v=false its bare payload.
func (s *subscriber) print(p packet.Publish) error {
	var err error
	switch {
	case s.json:
		err = json.NewEncoder(s.out).Encode(jsonMessage(p, time.Now()))
	case s.verbose:
		_, err = fmt.Fprintf(s.out, "%s %s\n", p.Topic, printable(p.Payload))
	default:
		_, err = fmt.Fprintf(s.out, "%s\n", p.Payload)
	}
	return err
}

// A message is the JSON form of a received message. A payload that is no UTF-8 text is in
// Base64 instead.
type message struct {
	At      time.Time  `json:"at"`
	Topic   string     `json:"topic"`
	QoS     packet.QoS `json:"qos"`
	Retain  bool       `json:"retain"`
	Payload *string    `json:"payload,omitempty"`
	Base64  []byte     `json:"base64,omitempty"`
}

func jsonMessage(p packet.Publish, at time.Time) message {
	m := message{At: at, Topic: p.Topic, QoS: p.QoS, Retain: p.Retain}
	if utf8.Valid(p.Payload) {
		text := string(p.Payload)
		m.Payload = &text
	} else {
		m.Base64 = p.Payload
	}
	return m
}

// printable returns the payload as it can be shown on a terminal: text as it is, anything that
// could move the cursor or break the line in quotes.
func printable(payload []byte) string {
	text := string(payload)
	if !utf8.ValidString(text) {
		return strconv.Quote(text)
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return strconv.Quote(text)
		}
	}
	return text
}

// A seconds is a time span that may be typed as a number of seconds; 0: none.
type seconds time.Duration

func (s *seconds) Set(text string) error {
	d, err := time.ParseDuration(text)
	if n, numErr := strconv.ParseUint(text, 10, 31); numErr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 {
		return errors.New("want seconds, or a time as in 1m30s")
	}
	*s = seconds(d)
	return nil
}

func (s *seconds) String() string {
	if *s == 0 {
		return ""
	}
	return time.Duration(*s).String()
}

func (s *seconds) Type() string { return "time" }

// after returns a channel that fires when the time is over, nil if there is none.
func (s *seconds) after() <-chan time.Time {
	if *s == 0 {
		return nil
	}
	return time.After(time.Duration(*s))
}
