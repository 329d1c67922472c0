package service

import (
	"fmt"
	"slices"
	"strings"
)

// An input is something about a client that can be sent to the service.
type input byte

const (
	username input = iota
	clientID
	password
	address
	protocol
	port
	commonName
	subject
	mountpoint
	topicName
	access // 1 subscribe, 2 publish
	action // subscribe, publish
	qos
	retain
	inputs // how many there are
)

// signs are the placeholders of NanoMQ: % and one of these.
var signs = map[byte]input{
	'u': username, 'c': clientID, 'P': password, 'a': address, 'r': protocol, 'p': port,
	'C': commonName, 'd': subject, 't': topicName, 'A': access, 'm': mountpoint,
}

// names are the placeholders of EMQX: one of these as in ${clientid}.
var names = map[string]input{
	"username": username, "clientid": clientID, "password": password, "peerhost": address, "ipaddress": address,
	"proto_name": protocol, "protocol": protocol, "port": port, "sockport": port,
	"cert_common_name": commonName, "cert_subject": subject, "mountpoint": mountpoint,
	"topic": topicName, "access": access, "action": action, "qos": qos, "retain": retain,
}

// Values are what is known of a client. What is not is an empty string.
type values [inputs]string

// A template is a text with placeholders.
type template []part

type part struct {
	text  string
	holds bool // a value, not the text
	value input
}

// parseTemplate reads a text with placeholders. %% is a percent sign.
func parseTemplate(s string) (template, error) {
	var t template
	var text strings.Builder
	place := func(i input) {
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

// fill puts the values into their places.
func (t template) fill(v *values) string {
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
