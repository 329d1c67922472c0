package main

import (
	"testing"

	"gateway/broker"
	"gateway/broker/session"
	"gateway/config"
)

// What the configuration says when nothing is given is what the broker takes when it is told nothing.
func TestDefaultLimits(t *testing.T) {
	c, err := config.Parse("gateway.yaml", []byte("listeners: [{name: a, address: \"127.0.0.1:0\", anonymous: true}]\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, want := limits(c.Limits), broker.DefaultLimits()
	want.Stored = session.Quota{} // section store has it
	if got != want {
		t.Errorf("the configuration has\n%+v\nthe broker\n%+v", got, want)
	}
}
