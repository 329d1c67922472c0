package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"gateway/bridge"
	"gateway/broker/session"
	"gateway/config"
	"gateway/offline"
)

func newStoreDead() *cobra.Command {
	replay, discard, configuration := "", "", ""
	cmd := &cobra.Command{
		Use:   "dead FILE",
		Short: "List what the clouds can never take, give it back to a bridge, or throw it away",
		Long: "List the dead letters of all bridges, one JSON object a line: the messages that a cloud can never take,\n" +
			"with the reason. With --replay those of one bridge go back into its queue, behind what waits there,\n" +
			"to be sent again. With --discard they are thrown away. A gateway that runs on the store is asked to do it.\n" +
			"If none runs, a list leaves the file as it is, and the others want one that is sound.",
		Example: "  gateway store dead /var/lib/gateway/store.db\n  gateway store dead /var/lib/gateway/store.db --replay cloud",
		Args:    oneStore,
		RunE: func(cmd *cobra.Command, args []string) error {
			file, w := args[0], cmd.OutOrStdout()
			name, again := replay+discard, replay != ""
			err := askDead(w, file, name, again)
			if errors.Is(err, errNotRunning) {
				err = openDead(w, file, name, configuration, again)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&replay, "replay", "", "the bridge whose dead letters are to be sent again")
	cmd.Flags().StringVar(&discard, "discard", "", "the bridge whose dead letters are to be thrown away")
	cmd.Flags().StringVar(&configuration, "config", "", "the configuration whose store.max_size is to hold if no gateway runs (default: 1GB)")
	cmd.MarkFlagsMutuallyExclusive("replay", "discard")
	return cmd
}

// askDead lets the gateway that runs on a store list the dead letters of all bridges, or, with the name
// of one, give them back or throw them away.
func askDead(w io.Writer, file, name string, again bool) error {
	inquire := func(answer any, question string, args ...any) error {
		var text bytes.Buffer
		if err := ask(file, fmt.Sprintf(question, args...), &text); err != nil {
			return err
		}
		return json.Unmarshal(text.Bytes(), answer)
	}
	if name == "" {
		return askList(w, inquire)
	}
	order := "discard"
	if again {
		order = "replay"
	}
	messages, left := 0, letterBatch
	var c cleared
	for first := true; left > 0; first = false {
		if err := inquire(&c, "%s %d %s", order, left, name); err != nil {
			return err
		}
		messages += c.Messages
		if left -= c.Messages; first { // what comes from now on is not meant
			left = c.Left
		}
		if c.Messages == 0 {
			break
		}
	}
	err := tellCleared(w, messages, name, again)
	if left = min(left, c.Left); left > 0 { // else they have gone by themselves
		err = errors.Join(err, fmt.Errorf("%d dead letters of %s are left: the gateway was too busy; run this again", left, name))
	}
	return err
}

func askList(w io.Writer, inquire func(answer any, question string, args ...any) error) error {
	var bridges []string
	if err := inquire(&bridges, "bridges"); err != nil {
		return err
	}
	lines := json.NewEncoder(w)
	for _, name := range bridges {
		for after := uint64(0); ; {
			var page []deadLine
			if err := inquire(&page, "dead %d %s", after, name); err != nil {
				return err
			}
			for _, l := range page {
				if err := lines.Encode(l); err != nil {
					return err
				}
				after = l.Position
			}
			if len(page) == 0 {
				break
			}
		}
	}
	return nil
}

func tellCleared(w io.Writer, messages int, name string, again bool) (err error) {
	if again {
		_, err = fmt.Fprintf(w, "%d messages are in the queue of %s again\n", messages, name)
	} else {
		_, err = fmt.Fprintf(w, "%d dead letters of %s are thrown away\n", messages, name)
	}
	return err
}

// openDead does what askDead does when no gateway runs. Only a store that is sound is opened, and a list
// leaves any as it is.
func openDead(w io.Writer, file, name, configuration string, again bool) (err error) {
	if name == "" {
		return dumpDead(w, file)
	}
	o := offline.Options{MaxBytes: mostStore, Sound: true}
	if configuration != "" {
		c, err := config.Load(configuration)
		if err != nil {
			return err
		}
		o.MaxBytes = c.Store.MaxSize
	}
	s, err := offline.Open(file, o)
	switch {
	case errors.Is(err, offline.ErrDamaged):
		return fmt.Errorf("%w: start the gateway on it, which saves what can be read, and run this again", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: give the file that store.path names, or store.db in the data folder", err)
	case err != nil:
		return err
	}
	m := morgue{store: s, file: file}
	err = m.clear(w, name, again)
	if closeErr := s.Close(); err == nil {
		err = closeErr
	}
	return err
}

// mostStore is the highest store.max_size, in bytes: dead letters move within their file, which without a
// configuration only the disk bounds.
const mostStore = 1 << 30

// dumpDead lists the dead letters that can be read of a file.
func dumpDead(w io.Writer, file string) error {
	lines := json.NewEncoder(w)
	return offline.Dump(file, func(c session.Change) error {
		e, ok := c.(*session.Enqueued)
		if !ok {
			return nil
		}
		for _, to := range e.To {
			name, ok := strings.CutPrefix(to.Client, bridge.DeadTopic(""))
			if !ok {
				continue
			}
			if l, ok := bridge.OpenLetter(name, e.Message.Publish); ok {
				if err := lines.Encode(newDeadLine(name, to.Position, l)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// A morgue is a store with dead letters.
type morgue struct {
	store *offline.Store
	file  string
}

// sessions returns the incarnation of each session.
func (m morgue) sessions() (map[string]uint64, error) {
	found := make(map[string]uint64)
	err := m.store.Restore(func(c session.Change) {
		if o, ok := c.(*session.Opened); ok {
			found[o.Client] = o.Incarnation
		}
	})
	return found, err
}

// A deadLine is what is printed of a dead letter.
type deadLine struct {
	Bridge   string `json:"bridge"`
	Position uint64 `json:"position"` // in the line of the dead letters of the bridge
	Topic    string `json:"topic"`
	QoS      byte   `json:"qos"`
	Retain   bool   `json:"retain,omitempty"`
	Bytes    int    `json:"payload_bytes"`
	Payload  string `json:"payload"` // at most letterPreview bytes
	Reason   string `json:"reason"`
	At       string `json:"at"`
}

func newDeadLine(name string, position uint64, l bridge.Letter) deadLine {
	p := l.Publish
	return deadLine{
		Bridge: name, Position: position, Topic: p.Topic, QoS: byte(p.QoS), Retain: p.Retain, Bytes: len(p.Payload),
		Payload: string(p.Payload[:min(len(p.Payload), letterPreview)]), Reason: l.Reason, At: l.At,
	}
}

// each calls f for each dead letter of a bridge.
func (m morgue) each(name string, f func(session.Queued, bridge.Letter) error) error {
	const batch = 100
	for from := uint64(0); ; {
		found, err := m.store.Read(bridge.DeadTopic(name), from, batch)
		if err != nil {
			return err
		}
		for _, q := range found {
			if l, ok := bridge.OpenLetter(name, q.Message.Publish); ok {
				if err := f(q, l); err != nil {
					return err
				}
			}
			from = q.Position + 1
		}
		if len(found) < batch {
			return nil
		}
	}
}

// clear moves the dead letters of a bridge into its queue, each of them in one commit, or throws them
// away.
func (m morgue) clear(w io.Writer, name string, again bool) error {
	sessions, err := m.sessions()
	if err != nil {
		return err
	}
	client := bridgeSession(name, 0)
	number, ok := sessions[client]
	if !ok {
		return fmt.Errorf("%s has no queue of a bridge %q: use the name that it has in the configuration", m.file, name)
	}
	messages := 0
	err = m.each(name, func(q session.Queued, l bridge.Letter) error {
		p := l.Publish
		changes := []session.Change{&session.Advanced{Client: bridge.DeadTopic(name), Position: q.Position, Stage: session.Done}}
		if again {
			message := *q.Message
			message.Publish = p
			to := &session.Target{Client: client, Incarnation: number, QoS: max(p.QoS, 1), Retain: p.Retain}
			changes = append([]session.Change{&session.Enqueued{Message: &message, To: []*session.Target{to}}}, changes...)
		}
		done := make(chan error, 1)
		m.store.Submit(changes, false, func(err error) { done <- err })
		if err := <-done; err != nil {
			return fmt.Errorf("dead letter to %q: %w", p.Topic, err)
		}
		messages++
		return nil
	})
	return errors.Join(err, tellCleared(w, messages, name, again))
}
