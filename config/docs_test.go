package config

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestDocumentation compares the tables of docs/configuration.md with the tags of the structs:
// every key has a row that says its default and what is allowed, and every row has a key.
func TestDocumentation(t *testing.T) {
	doc, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := make(map[string]string)
	for _, part := range strings.Split(string(doc), "\n## ")[1:] {
		title, body, _ := strings.Cut(part, "\n")
		sections[title] = body
	}
	for title, section := range map[string]any{
		"The file":               Config{},
		"gateway":                Gateway{},
		"sim":                    Sim{},
		"store":                  Store{},
		"limits":                 Limits{},
		"auth":                   Auth{},
		"auth: groups":           Group{},
		"auth: http_auth":        HTTPAuth{},
		"auth: http requests":    HTTPRequest{},
		"auth: rules":            AccessRule{},
		"listeners":              Listener{},
		"listeners: names":       Names{},
		"listeners: tls":         TLS{},
		"listeners: limits":      Bounds{},
		"listeners: websocket":   WebSocket{},
		"listeners: socket":      Socket{},
		"bridges":                Bridge{},
		"queue":                  Queue{},
		"bridges: tls":           BridgeTLS{},
		"bridges: backoff":       Backoff{},
		"bridges: replay_rate":   ReplayRate{},
		"bridges: rules":         Rule{},
		"inputs":                 Input{},
		"outputs":                Output{},
		"outputs: link_loss":     LinkLoss{},
		"serial":                 Serial{},
		"serial: frames":         Frame{},
		"serial: frames: fields": Field{},
		"serial: writes":         Write{},
	} {
		rows := tableRows(sections[title])
		fields := fieldsOf(reflect.TypeOf(section))
		for i, f := range fields {
			if i >= len(rows) {
				t.Errorf("section %q ends before key %s", title, f.key)
				break
			}
			if want := cells(f, rows[i]); !slices.Equal(rows[i][:3], want) {
				t.Errorf("section %q has the row %q, want %q", title, rows[i][:3], want)
			}
			if rows[i][3] == "" {
				t.Errorf("section %q says nothing about %s", title, f.key)
			}
		}
		if len(rows) > len(fields) {
			t.Errorf("section %q has %d rows for %d keys", title, len(rows), len(fields))
		}
	}
}

// tableRows returns the cells of the rows of keys: key, default, allowed, meaning.
func tableRows(section string) (rows [][]string) {
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		row := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		rows = append(rows, append(row, "", "", "")[:4])
	}
	return rows
}

// cells are the first three cells that a key's row must have. What the tags do not say is for
// people to say: it is taken from the row itself.
func cells(f field, row []string) []string {
	want := []string{"`" + f.key + "`", row[1], row[2]}
	switch {
	case f.required:
		want[1] = "required"
	case f.def != "":
		want[1] = "`" + strings.ReplaceAll(f.def, "\n", `\n`) + "`"
	}
	if len(f.words) > 0 {
		want[2] = strings.Join(f.words, ", ")
	}
	if low, high, ok := strings.Cut(f.bounds, ".."); ok {
		want[2] = low + " to " + high
	}
	return want
}

// TestSchema checks the tags themselves: every default is within its own bounds, and every
// number has bounds.
func TestSchema(t *testing.T) {
	d := decoder{places: places{lines: make(map[string]int)}}
	seen := make(map[reflect.Type]bool)
	var visit func(reflect.Type)
	visit = func(typ reflect.Type) {
		for typ.Kind() == reflect.Slice || typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || typ == secretType || seen[typ] {
			return
		}
		seen[typ] = true
		d.defaults(fieldsOf(typ), reflect.New(typ).Elem())
		for _, f := range fieldsOf(typ) {
			in := typ.FieldByIndex(f.index)
			visit(in.Type)
			bounded := in.Type.Kind() == reflect.Int || in.Type.Kind() == reflect.Int64
			if bounded && f.bounds == "" {
				t.Errorf("%s.%s has no range", typ.Name(), in.Name)
			}
		}
	}
	visit(reflect.TypeFor[Config]())
	for _, p := range d.problems {
		t.Error(p)
	}
	if len(seen) < 15 {
		t.Errorf("only %d sections visited", len(seen))
	}
}
