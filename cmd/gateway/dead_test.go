package main

import (
	"bufio"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// Dead letters that a gateway does not come to are told of; those that went by themselves are not.
func TestDeadLeft(t *testing.T) {
	for _, tt := range []struct {
		name    string
		answers []string // to one question each
		says    string
		err     string
	}{
		{"all", []string{`{"messages":1000,"left":2}`, `{"messages":2,"left":7}`}, "1002 messages", ""},
		{"too busy", []string{`{"messages":1000,"left":500}`, `{"messages":0,"left":500}`}, "1000 messages", "500 dead letters of cloud are left"},
		{"some come meanwhile", []string{`{"messages":3,"left":2}`, `{"messages":0,"left":9}`}, "3 messages", "2 dead letters of cloud are left"},
		{"some went by themselves", []string{`{"messages":3,"left":2}`, `{"messages":0,"left":0}`}, "3 messages", ""},
		{"there are none", []string{`{"messages":0,"left":0}`}, "0 messages", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "s")
			ln, err := net.Listen("unix", file+socketSuffix)
			if err != nil {
				t.Fatal(err)
			}
			answered := make(chan int)
			go func() {
				n := 0
				defer func() { answered <- n }()
				for _, text := range tt.answers {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					if question, _ := bufio.NewReader(c).ReadString('\n'); strings.HasPrefix(question, "replay ") {
						fmt.Fprintf(c, "ok %d\n%s", len(text), text)
						n++
					}
					c.Close()
				}
			}()
			var out strings.Builder
			err = askDead(&out, file, "cloud", true)
			_ = ln.Close()
			if n := <-answered; n != len(tt.answers) {
				t.Errorf("%d questions, want %d", n, len(tt.answers))
			}
			if !strings.HasPrefix(out.String(), tt.says) || (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("it says %q and %v, want %q and %q", out.String(), err, tt.says, tt.err)
			}
		})
	}
}
