package template_test

import (
	"slices"
	"strings"
	"testing"

	"gateway/broker/auth/template"
)

func TestTemplate(t *testing.T) {
	v := &template.Values{template.Username: "u", template.ClientID: "%u", template.Topic: "${username}"}
	for _, tt := range []struct{ text, want, err string }{
		{"", "", ""},
		{"plain", "plain", ""},
		{"%u", "u", ""},
		{"a %c b", "a %u b", ""}, // what is filled in is not read again
		{"%t${username}%%", "${username}u%", ""},
		{"$u {clientid}", "$u {clientid}", ""},
		{"%P%C", "", ""},
		{"%", "", "a % at the end"},
		{"%x", "", "unknown placeholder %x"},
		{"${", "", "no } after ${"},
		{"${x}", "", "unknown placeholder ${x}; known are ${access} ${action} "},
	} {
		p, err := template.Parse(tt.text)
		if (err == nil) != (tt.err == "") || err != nil && !strings.HasPrefix(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %s", tt.text, err, tt.err)
		}
		if err == nil && p.Fill(v) != tt.want {
			t.Errorf("%s is %q, want %q", tt.text, p.Fill(v), tt.want)
		}
	}
	p, err := template.Parse("%c-${topic}-x")
	if err != nil || !slices.Equal(p.Uses(), []template.Input{template.ClientID, template.Topic}) {
		t.Errorf("it uses %v, %v", p.Uses(), err)
	}
}
