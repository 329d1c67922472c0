package auth_test

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"gateway/broker/auth"
)

// A Challenge is a mechanism of one's own, complete: the client says its name, gets a random
// challenge, and answers with the HMAC of it under its key. A listener of the broker that has it among its
// Mechanisms offers it to 5.0 clients as the authentication method "CHALLENGE", for CONNECT and for
// authenticating again.
type Challenge struct{ keys map[string][]byte }

func (c *Challenge) Name() string { return "CHALLENGE" }

// Start makes what one authentication has to remember from one message to the next.
func (c *Challenge) Start(auth.Attempt) auth.Exchange { return &challenged{keys: c.keys} }

type challenged struct {
	keys      map[string][]byte
	name      string
	challenge []byte
}

// Next is called for the data of the CONNECT and then for that of each AUTH. The broker bounds
// their size and number, and the time until Done.
func (c *challenged) Next(_ context.Context, data []byte) (auth.Step, error) {
	if c.challenge == nil {
		c.name, c.challenge = string(data), make([]byte, 16)
		_, _ = rand.Read(c.challenge) // never fails
		return auth.Step{Data: c.challenge}, nil
	}
	// A name that nobody has is refused as late as a wrong answer is.
	key, known := c.keys[c.name]
	if right := hmac.Equal(data, answer(key, c.challenge)); !right || !known {
		return auth.Step{}, errors.New("wrong answer")
	}
	return auth.Step{Done: true, Identity: auth.Identity{User: c.name, By: "challenge"}}, nil
}

func answer(key, challenge []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(challenge)
	return m.Sum(nil)
}

func ExampleMechanism() {
	var m auth.Mechanism = &Challenge{map[string][]byte{"pump": []byte("its key")}}

	x := m.Start(auth.Attempt{ClientID: "pump-1"})
	step, err := x.Next(context.Background(), []byte("pump"))
	fmt.Println(len(step.Data), step.Done, err)
	step, err = x.Next(context.Background(), answer([]byte("its key"), step.Data))
	fmt.Println(step.Identity.User, step.Done, err)

	x = m.Start(auth.Attempt{})
	step, _ = x.Next(context.Background(), []byte("stranger"))
	_, err = x.Next(context.Background(), answer(nil, step.Data))
	fmt.Println(err)
	// Output:
	// 16 false <nil>
	// pump true <nil>
	// wrong answer
}
