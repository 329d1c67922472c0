// Package template has texts with placeholders for what is known of a client, in the ways of NanoMQ
// and of EMQX.
package template

import (
	"fmt"
	"slices"
	"strings"
)

// An Input is something that is known of a client.
type Input byte

// The inputs.
const (
	Username Input = iota
	ClientID
	Password
	Address
	Protocol
	Port
	CommonName
	Subject
	Mountpoint
	Topic
	Access // 1 subscribe, 2 publish
	Action // subscribe, publish
	QoS
	Retain
	inputs // how many there are
)

// signs are the placeholders of NanoMQ: % and one of these.
var signs = map[byte]Input{
	'u': Username, 'c': ClientID, 'P': Password, 'a': Address, 'r': Protocol, 'p': Port,
	'C': CommonName, 'd': Subject, 't': Topic, 'A': Access, 'm': Mountpoint,
}

// names are the placeholders of EMQX: one of these as in ${clientid}.
var names = map[string]Input{
	"username": Username, "clientid": ClientID, "password": Password, "peerhost": Address, "ipaddress": Address,
	"proto_name": Protocol, "protocol": Protocol, "port": Port, "sockport": Port,
	"cert_common_name": CommonName, "cert_subject": Subject, "mountpoint": Mountpoint,
	"topic": Topic, "access": Access, "action": Action, "qos": QoS, "retain": Retain,
}

// Values are what is known of a client. What is not is an empty string.
type Values [inputs]string

// A Template is a text with placeholders.
type Template []part

type part struct {
	text  string
	holds bool // a value, not the text
	value Input
}

// Parse reads a text with placeholders. %% is a percent sign.
func Parse(s string) (Template, error) {
	var t Template
	var text strings.Builder
	place := func(i Input) {
		if text.Len() > 0 {
			t = append(t, part{text: text.String()})
			text.Reset()
		}
		t = append(t, part{holds: true, value: i})
	}
	for s != "" {
		switch {
		case strings.HasPrefix(s, "%%"):
			text.WriteByte('%')
			s = s[2:]
		case s[0] == '%':
			if len(s) < 2 {
				return nil, fmt.Errorf("a %% at the end; write %%%% for the sign itself")
			}
			i, ok := signs[s[1]]
			if !ok {
				return nil, fmt.Errorf("unknown placeholder %%%c; known are %%u %%c %%P %%a %%r %%p %%C %%d %%t %%A %%m, and %%%% for the sign itself", s[1])
			}
			place(i)
			s = s[2:]
		case strings.HasPrefix(s, "${"):
			name, rest, ok := strings.Cut(s[2:], "}")
			if !ok {
				return nil, fmt.Errorf("no } after ${")
			}
			i, ok := names[name]
			if !ok {
				return nil, fmt.Errorf("unknown placeholder ${%s}; known are %s", name, known())
			}
			place(i)
			s = rest
		default:
			text.WriteByte(s[0])
			s = s[1:]
		}
	}
	if text.Len() > 0 {
		t = append(t, part{text: text.String()})
	}
	return t, nil
}

func known() string {
	var all []string
	for name := range names {
		all = append(all, "${"+name+"}")
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// Fill puts the values into their places.
func (t Template) Fill(v *Values) string {
	var s strings.Builder
	for _, p := range t {
		if p.holds {
			s.WriteString(v[p.value])
		} else {
			s.WriteString(p.text)
		}
	}
	return s.String()
}

// Uses returns the inputs that have a place.
func (t Template) Uses() (used []Input) {
	for _, p := range t {
		if p.holds {
			used = append(used, p.value)
		}
	}
	return used
}
