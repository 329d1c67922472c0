package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gateway/bridge"
	"gateway/broker/session"
	"gateway/offline"
)

func newStoreDead() *cobra.Command {
	replay := ""
	cmd := &cobra.Command{
		Use:   "dead FILE",
		Short: "List what the clouds can never take, or give it back to a bridge",
		Long: "List the dead letters of all bridges, one JSON object a line: the messages that a cloud can never take,\n" +
			"with the reason. With --replay those of one bridge go back into its queue, behind what waits there,\n" +
			"to be sent again when the gateway runs. The gateway must not run meanwhile.",
		Example: "  gateway store dead /var/lib/gateway/store.db\n  gateway store dead /var/lib/gateway/store.db --replay cloud",
		Args:    oneStore,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			s, err := offline.Open(args[0], offline.Options{Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				return err
			}
			m := morgue{store: s, file: args[0]}
			if replay == "" {
				err = m.list(cmd.OutOrStdout())
			} else {
				err = m.replay(cmd.OutOrStdout(), replay)
			}
			if closeErr := s.Close(); err == nil {
				err = closeErr
			}
			return err
		},
	}
	cmd.Flags().StringVar(&replay, "replay", "", "the bridge whose dead letters are to be sent again")
	return cmd
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
	Bridge  string `json:"bridge"`
	Topic   string `json:"topic"`
	QoS     byte   `json:"qos"`
	Retain  bool   `json:"retain,omitempty"`
	Bytes   int    `json:"payload_bytes"`
	Payload string `json:"payload"` // at most 256 bytes
	Reason  string `json:"reason"`
	At      string `json:"at"`
}

func (m morgue) list(w io.Writer) error {
	sessions, err := m.sessions()
	if err != nil {
		return err
	}
	lines := json.NewEncoder(w)
	for _, client := range slices.Sorted(maps.Keys(sessions)) {
		name, ok := strings.CutPrefix(client, bridge.DeadTopic(""))
		if !ok {
			continue
		}
		err := m.each(name, func(_ session.Queued, l bridge.Letter) error {
			p := l.Publish
			return lines.Encode(deadLine{
				Bridge: name, Topic: p.Topic, QoS: byte(p.QoS), Retain: p.Retain, Bytes: len(p.Payload),
				Payload: string(p.Payload[:min(len(p.Payload), 256)]), Reason: l.Reason, At: l.At,
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
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

// replay moves the dead letters of a bridge into its queue: each leaves the one and enters the
// other in the same commit.
func (m morgue) replay(w io.Writer, name string) error {
	sessions, err := m.sessions()
	if err != nil {
		return err
	}
	client := bridgeSession(name, 0)
	number, ok := sessions[client]
	if !ok {
		return fmt.Errorf("%s has no queue of a bridge %q: use the name that it has in the configuration", m.file, name)
	}
	moved := 0
	err = m.each(name, func(q session.Queued, l bridge.Letter) error {
		p := l.Publish
		message := *q.Message
		message.Publish = p
		to := &session.Target{Client: client, Incarnation: number, QoS: max(p.QoS, 1), Retain: p.Retain}
		done := make(chan error, 1)
		m.store.Submit([]session.Change{
			&session.Enqueued{Message: &message, To: []*session.Target{to}},
			&session.Advanced{Client: bridge.DeadTopic(name), Position: q.Position, Stage: session.Done},
		}, false, func(err error) { done <- err })
		if err := <-done; err != nil {
			return fmt.Errorf("replay %q: %w", p.Topic, err)
		}
		moved++
		return nil
	})
	fmt.Fprintf(w, "%d messages are in the queue of %s again\n", moved, name)
	return err
}
