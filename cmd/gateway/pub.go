package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// maxLine is the size of a line that "gateway pub -l" takes, in bytes.
const maxLine = 1 << 20

// A publication is what "gateway pub" was asked to publish.
type publication struct {
	connection
	topic, message, file string
	empty, lines, retain bool
	qos                  qos
	repeat               int
	delay                time.Duration
}

func newPub() *cobra.Command {
	p := &publication{qos: 1}
	cmd := &cobra.Command{
		Use:   "pub TOPIC [MESSAGE]",
		Short: "Publish a message",
		Long: "Publish a message, and wait until the broker has acknowledged it.\n\n" +
			"The message is the second argument, a file (-f), every line of standard input (-l), or empty (-n).",
		Example: "  gateway pub greenhouse/vent/set open\n" +
			"  gateway pub -r -n greenhouse/old/topic      # removes a retained message\n" +
			"  journalctl -f | gateway pub -l board/log",
		Args: func(_ *cobra.Command, args []string) error { return p.arguments(args) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Ctrl-C ends it at once, as it may be waiting for standard input.
			return p.run(cmd.Context(), cmd.InOrStdin(), cmd.ErrOrStderr())
		},
	}
	p.register(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&p.topic, "topic", "t", "", "topic, instead of the argument")
	flags.StringVarP(&p.message, "message", "m", "", "message, instead of the argument")
	flags.StringVarP(&p.file, "file", "f", "", "file whose content is the message; - is standard input")
	flags.BoolVarP(&p.empty, "null-message", "n", false, "empty message")
	flags.BoolVarP(&p.lines, "stdin-line", "l", false, "every line of standard input is a message")
	flags.BoolVarP(&p.retain, "retain", "r", false, "the broker keeps the message for later subscribers")
	flags.VarP(&p.qos, "qos", "q", "quality of service: 0, 1 or 2")
	flags.IntVar(&p.repeat, "repeat", 1, "how many times the message is sent")
	flags.DurationVar(&p.delay, "repeat-delay", 0, "pause between repetitions")
	return cmd
}

// arguments takes TOPIC and MESSAGE from the arguments or the flags.
func (p *publication) arguments(args []string) error {
	if p.topic == "" && len(args) > 0 {
		p.topic, args = args[0], args[1:]
	}
	sources := 0
	for _, given := range []bool{p.message != "", p.file != "", p.empty, p.lines, len(args) > 0} {
		if given {
			sources++
		}
	}
	switch {
	case p.topic == "":
		return usageError{errors.New(`which topic? as in: gateway pub greenhouse/vent/set open`)}
	case strings.ContainsAny(p.topic, "+#"):
		return usageError{fmt.Errorf("topic %q: + and # are for subscribers, a message has one topic", p.topic)}
	case len(args) > 1:
		return usageError{fmt.Errorf("one message, not %d: put it in quotes", len(args))}
	case sources == 0:
		return usageError{errors.New("which message? give MESSAGE, -f FILE, -l for lines of standard input, or -n for an empty one")}
	case sources > 1:
		return usageError{errors.New("one message only: MESSAGE, -m, -f, -l or -n")}
	case p.repeat < 1:
		return usageError{fmt.Errorf("--repeat %d: want at least 1", p.repeat)}
	}
	if len(args) == 1 {
		p.message = args[0]
	}
	return nil
}

func (p *publication) run(ctx context.Context, stdin io.Reader, stderr io.Writer) error {
	payload := []byte(p.message)
	if p.file != "" {
		var err error
		if payload, err = readMessage(p.file, stdin); err != nil {
			return err
		}
	}
	c, err := p.dial(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	out := &outcome{topic: p.topic}
	if p.lines {
		err = p.sendLines(ctx, c, stdin, out)
	} else {
		err = p.sendRepeated(ctx, c, payload, out)
	}
	ending, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	if waitErr := c.Wait(ending); err == nil {
		err = waitErr
	}
	if leaveErr := c.Disconnect(ending); err == nil {
		err = leaveErr
	}
	if err != nil {
		return fmt.Errorf("%d of %d messages acknowledged: %w", out.acknowledged, out.sent, err)
	}
	return out.report(stderr)
}

func readMessage(file string, stdin io.Reader) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(file)
}

func (p *publication) sendLines(ctx context.Context, c *client.Client, stdin io.Reader, out *outcome) error {
	lines := bufio.NewScanner(stdin)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if err := p.send(ctx, c, append([]byte(nil), lines.Bytes()...), out); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	return nil
}

func (p *publication) sendRepeated(ctx context.Context, c *client.Client, payload []byte, out *outcome) error {
	for i := range p.repeat {
		if i > 0 && p.delay > 0 {
			select {
			case <-time.After(p.delay):
			case <-c.Done():
			}
		}
		if err := p.send(ctx, c, payload, out); err != nil {
			return err
		}
	}
	return nil
}

func (p *publication) send(ctx context.Context, c *client.Client, payload []byte, out *outcome) error {
	m := packet.Publish{Topic: p.topic, Payload: payload, QoS: packet.QoS(p.qos), Retain: p.retain}
	out.sent++
	return c.Send(ctx, m, out.done)
}

// An outcome counts what became of the messages. sent belongs to the sender, the rest to the
// client's reader until the client has ended.
type outcome struct {
	topic        string
	sent         int
	acknowledged int
	unheard      int
	refused      packet.ReasonCode
}

func (o *outcome) done(r packet.ReasonCode, err error) {
	switch {
	case err != nil:
	case r.Failed():
		o.refused = r
	default:
		o.acknowledged++
		if r == packet.NoMatchingSubscribers {
			o.unheard++
		}
	}
}

func (o *outcome) report(stderr io.Writer) error {
	if o.refused != 0 {
		return fmt.Errorf("the broker refused %d of %d messages on %q: %v", o.sent-o.acknowledged, o.sent, o.topic, o.refused)
	}
	if o.unheard > 0 && o.unheard == o.sent {
		fmt.Fprintf(stderr, "published, but nobody subscribes to %q\n", o.topic)
	}
	return nil
}
