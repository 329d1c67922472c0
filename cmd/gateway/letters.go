package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gateway/bridge"
	"gateway/broker"
	"gateway/broker/packet"
	"gateway/config"
)

const (
	letterPage    = 100                    // letters in one answer
	letterBatch   = 1000                   // letters that one order gives back or throws away
	letterWindow  = 100                    // of them under way to the disk
	letterPause   = 500 * time.Millisecond // after which there is no next letter
	letterTime    = 8 * time.Second        // for one order; what it leaves is for the next
	letterPreview = 256                    // bytes of a payload that are shown
)

// Letters are the dead letters of a gateway that runs.
type letters struct {
	server  *broker.Server
	vault   *vault
	bridges []string
	turn    chan struct{} // one slot: full while an order has the session that keeps letters; others wait
}

func newLetters(c *config.Config, g *gateway) *letters {
	l := &letters{server: g.server, vault: g.vault, bridges: []string{}, turn: make(chan struct{}, 1)}
	for _, b := range c.Bridges {
		l.bridges = append(l.bridges, b.Name)
	}
	return l
}

// A cleared is what became of dead letters by one order.
type cleared struct {
	Messages int `json:"messages"` // that were given back, or thrown away
	Left     int `json:"left"`     // of those that were there, at most
}

func (l *letters) known(name string) error {
	if !slices.Contains(l.bridges, name) {
		return fmt.Errorf("there is no bridge %q: the configuration has %q", name, l.bridges)
	}
	return nil
}

// list returns a page of the dead letters of a bridge, those behind a position.
func (l *letters) list(name string, after uint64) (page []deadLine, err error) {
	if err := l.known(name); err != nil {
		return nil, err
	}
	found, err := l.vault.Read(bridge.DeadTopic(name), after+1, letterPage)
	for _, q := range found {
		if letter, ok := bridge.OpenLetter(name, q.Message.Publish); ok {
			page = append(page, newDeadLine(name, q.Position, letter))
		}
	}
	return page, err
}

// clear gives the first dead letters of a bridge, so many at most, back to it, or throws them away.
// Letters that come meanwhile are not touched, or a cloud that refuses all of them would keep it busy
// for ever. What it has done is on disk when it returns.
func (l *letters) clear(ctx context.Context, name string, most uint64, again bool) (done cleared, err error) {
	if err := l.known(name); err != nil {
		return cleared{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, letterTime)
	defer cancel()
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return cleared{}, errors.New("another order is carried out: try again")
	}
	c, err := l.server.Connect(broker.ClientOptions{
		ID: bridge.DeadTopic(name), SessionExpiry: broker.Never, ReceiveMaximum: letterWindow,
	})
	if err != nil {
		return cleared{}, err
	}
	defer c.Close()
	r := round{client: c, name: name, again: again}
	waiting := c.Waiting()
	for range min(uint64(waiting), most, letterBatch) {
		if !r.next(ctx) {
			break
		}
	}
	r.underWay.Wait()
	kept := make(chan error, 1)
	l.vault.Submit(nil, false, func(err error) { kept <- err }) // behind what the letters have changed
	r.fail(<-kept)
	return cleared{Messages: r.messages, Left: max(waiting-r.messages, 0)}, r.err
}

// A round takes the dead letters of one order. The session's window bounds what is under way.
type round struct {
	client   *broker.Client
	name     string
	again    bool
	underWay sync.WaitGroup

	mu       sync.Mutex
	messages int
	err      error
}

// next takes one letter; it returns false if there is none, or if an earlier one could not be given
// back.
func (r *round) next(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, letterPause)
	defer cancel()
	letter, _, err := r.client.Next(ctx)
	if err != nil {
		return false
	}
	r.mu.Lock()
	failed := r.err != nil
	r.mu.Unlock()
	if failed {
		return false
	}
	p, ok := bridge.Again(r.name, letter)
	if !r.again || !ok {
		r.done(letter.ID)
		return true
	}
	r.underWay.Add(1)
	r.client.Publish(p, func(code packet.ReasonCode) {
		switch {
		case code != packet.Success:
			r.fail(fmt.Errorf("%q: the queue of the bridge does not take it: %s", letter.Topic, code))
		case p.QoS == 2: // its identifier is free for the next order
			r.client.Release(p.ID, func(packet.ReasonCode) { r.done(letter.ID); r.underWay.Done() })
			return
		default:
			r.done(letter.ID)
		}
		r.underWay.Done()
	})
	return true
}

// done lets go of a letter.
func (r *round) done(id uint16) {
	r.client.Done(id)
	r.mu.Lock()
	r.messages++
	r.mu.Unlock()
}

func (r *round) fail(err error) {
	r.mu.Lock()
	r.err = errors.Join(r.err, err)
	r.mu.Unlock()
}

// answer answers a question of "gateway store dead" at the socket of the store: "bridges", "dead AFTER
// NAME", "replay MOST NAME" or "discard MOST NAME". The answer is JSON. known tells whether it is one of
// these.
func (l *letters) answer(ctx context.Context, question string) (answer []byte, known bool, err error) {
	word, rest, _ := strings.Cut(question, " ")
	first, name, _ := strings.Cut(rest, " ")
	number, parseErr := strconv.ParseUint(first, 10, 64)
	var found any
	switch {
	case word == "bridges":
		found = l.bridges
	case word != "dead" && word != "replay" && word != "discard":
		return nil, false, nil
	case parseErr != nil:
		return nil, true, fmt.Errorf("%q: a number and the name of a bridge are wanted", question)
	case word == "dead":
		found, err = l.list(name, number)
	default:
		found, err = l.clear(ctx, name, number, word == "replay")
	}
	if err != nil {
		return nil, true, err
	}
	answer, err = json.Marshal(found)
	return answer, true, err
}
