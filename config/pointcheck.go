package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// points checks inputs, outputs and serial ports: they share topics and lines.
type points struct {
	*checker
	topics map[string]string // topic -> key of the point that uses it
	pins   map[string]string // digital line -> key
}

func (k points) all(c *Config) {
	for i, in := range c.Inputs {
		at := fmt.Sprintf("inputs[%d]", i)
		k.point(in.Point, at+".point")
		k.gpio(c.Board, in.Line, at+".line")
		k.switchWords(in.On, in.Off, at)
		k.report(in.Report, at)
	}
	for i, o := range c.Outputs {
		at := fmt.Sprintf("outputs[%d]", i)
		k.point(o.Point, at+".point", commandSuffixes...)
		k.gpio(c.Board, o.Line, at+".line")
		k.output(o, at)
		k.command(c, o.Command, at)
	}
	ports := make(map[string]string)
	for i, s := range c.Serial {
		at := fmt.Sprintf("serial[%d]", i)
		k.once(ports, s.Port, at+".port")
		k.serial(c.Board, s, at)
		for j, w := range s.Writes {
			key := fmt.Sprintf("%s.writes[%d]", at, j)
			k.write(w, at, key)
			k.command(c, w.Command, key)
		}
	}
}

// point checks a point's topic and takes it, with the topics that end in suffixes.
func (k points) point(point, key string, suffixes ...string) {
	if point == "" {
		return
	}
	if p := topicProblem(point); p != "" {
		k.want(false, key, "%s", p)
		return
	}
	k.once(k.topics, point, key)
	k.takes(point, key, suffixes...)
}

// commandSuffixes end the topics of an output.
var commandSuffixes = []string{"/set", "/state", "/result"}

// takes takes the topics of a point that end in suffixes.
func (k points) takes(point, key string, suffixes ...string) {
	for _, s := range suffixes {
		k.once(k.topics, point+s, key)
	}
}

// gpio checks the name of a line and that it is used once.
func (k points) gpio(board, line, key string) {
	k.once(k.pins, line, key)
	chip, offset, ok := strings.Cut(line, ":")
	if board != "linux" || !ok {
		return
	}
	_, err := strconv.ParseUint(offset, 10, 16)
	k.want(err == nil && chip != "", key, "a line's name, as GPIO17, or chip:number, as gpiochip0:17, not %s", quoteShort(line))
}

// switchWords checks the two words of a switch. What every command understands must not be
// turned round.
func (k points) switchWords(on, off, at string) {
	k.want(on != "", at+".on", "must not be empty")
	k.want(off != "", at+".off", "must not be empty")
	k.want(on != off, at+".on", "on and off must be different words")
	k.want(!slices.Contains([]string{"off", "false", "0"}, on), at+".on", "%s always means off; turn the level round with active_low", quoteShort(on))
	k.want(!slices.Contains([]string{"on", "true", "1"}, off), at+".off", "%s always means on; turn the level round with active_low", quoteShort(off))
}

func (k points) report(r Report, at string) {
	k.want(r.Heartbeat == 0 || r.MinInterval <= r.Heartbeat, at+".min_interval", "longer than heartbeat, %v; shorten it", r.Heartbeat)
}

// command checks what outputs of all kinds have in common.
func (k points) command(c *Config, o Command, at string) {
	if o.LinkLoss == nil || o.LinkLoss.Bridge == "" {
		return
	}
	known := slices.ContainsFunc(c.Bridges, func(b Bridge) bool { return b.Name == o.LinkLoss.Bridge })
	k.want(known, at+".link_loss.bridge", "no bridge is called %s; name one of section bridges", quoteShort(o.LinkLoss.Bridge))
}

func (k points) output(o Output, at string) {
	k.switchWords(o.On, o.Off, at)
	k.want(o.Safe == "" || o.Safe == o.On || o.Safe == o.Off, at+".safe",
		"%s or %s, the words of on and off, not %s", quoteShort(o.On), quoteShort(o.Off), quoteShort(o.Safe))
	dwell, name := o.MinOn, "min_on"
	if o.SafeOn() {
		dwell, name = o.MinOff, "min_off"
	}
	k.want(o.Lease == 0 || dwell <= o.Lease, at+".lease", "shorter than %s, which would never be kept; make it longer", name)
}

// bauds are the speeds that Linux has constants for (termbits.h).
var bauds = []int{
	50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115200,
	230400, 460800, 500000, 576000, 921600, 1000000, 1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000,
}

func (k points) serial(board string, s Serial, at string) {
	sim := strings.HasPrefix(s.Port, "sim:")
	k.want(s.Port == "" || board != "linux" || strings.HasPrefix(s.Port, "/"), at+".port",
		"a path, best below /dev/serial/by-id, not %s", quoteShort(s.Port))
	k.want(s.Port == "" || board != "sim" || sim, at+".port", "board: sim has ports whose names begin with sim:, not %s", quoteShort(s.Port))
	k.want(slices.Contains(bauds, s.Baud), at+".baud", "%d is no speed of Linux; as 9600, 19200, 38400, 57600, 115200", s.Baud)
	k.want(s.Delimiter != "", at+".delimiter", "must not be empty; \"\\n\" and \"\\r\\n\" are usual")
	k.want(len(s.Frames)+len(s.Writes) > 0, at, "nothing to read or write; add frames or writes")
	for i, f := range s.Frames {
		k.frame(f, fmt.Sprintf("%s.frames[%d]", at, i))
	}
}

// write checks an output of the serial port at port.
func (k points) write(w Write, port, at string) {
	if topicProblem(w.Point) == "" && strings.HasPrefix(k.topics[w.Point], port+".frames[") {
		// The field of this port that has the same point measures the output.
		k.takes(w.Point, at+".point", commandSuffixes...)
	} else {
		k.point(w.Point, at+".point", commandSuffixes...)
	}
	k.want(w.Template == "" || strings.Contains(w.Template, "{value}"), at+".template",
		"without {value}, where the command's value goes")
	k.typed(w.Type, w.On, w.Off, w.Min, w.Max, at)
	if w.Safe == "" {
		k.want(w.Lease == 0, at+".lease", "needs safe, the value to send when it ends")
		k.want(w.LinkLoss == nil, at+".link_loss", "needs safe, the value to send when the link is lost")
		return
	}
	safe, err := parseFloat(w.Safe)
	k.want(w.Type != "number" || err == nil, at+".safe", "a number, not %s", quoteShort(w.Safe))
	k.want(w.Type != "number" || (w.Min == nil || safe >= *w.Min) && (w.Max == nil || safe <= *w.Max), at+".safe", "outside of min and max")
	k.want(w.Type != "bool" || w.Safe == w.On || w.Safe == w.Off, at+".safe",
		"%s or %s, the words of on and off, not %s", quoteShort(w.On), quoteShort(w.Off), quoteShort(w.Safe))
}

func (k points) frame(f Frame, at string) {
	k.want(f.Format == "split" || !k.given(at+".separator"), at+".separator", "only with format: split")
	k.want(f.Format == "regexp" || !k.given(at+".pattern"), at+".pattern", "only with format: regexp")
	k.want(f.Format != "regexp" || f.Pattern != "", at+".pattern", "missing; format: regexp needs it")
	k.want(len(f.Fields) > 0, at+".fields", "no fields; add one")
	if _, err := regexp.Compile(f.Match); err != nil {
		k.want(false, at+".match", "%v", err)
	}
	pattern, err := regexp.Compile(f.Pattern)
	if err != nil {
		k.want(false, at+".pattern", "%v", err)
	}
	for i, field := range f.Fields {
		key := fmt.Sprintf("%s.fields[%d]", at, i)
		k.point(field.Point, key+".point")
		k.report(field.Report, key)
		k.field(field, key)
		switch {
		case field.Field == "":
		case f.Format == "split":
			_, err := strconv.ParseUint(field.Field, 10, 16)
			k.want(err == nil, key+".field", "the number of the column, from 0, not %s", quoteShort(field.Field))
		case f.Format == "regexp" && pattern != nil && f.Pattern != "":
			k.want(hasGroup(pattern, field.Field), key+".field",
				"the pattern has no group %s; (?P<name>…) makes one with a name", quoteShort(field.Field))
		}
	}
}

// hasGroup tells whether a pattern has a group of this name or number.
func hasGroup(pattern *regexp.Regexp, group string) bool {
	if n, err := strconv.Atoi(group); err == nil {
		return n >= 0 && n <= pattern.NumSubexp()
	}
	return pattern.SubexpIndex(group) >= 0
}

func (k points) field(f Field, at string) {
	k.typed(f.Type, f.On, f.Off, f.Min, f.Max, at)
	k.want(f.Type != "number" || f.Scale != 0, at+".scale", "0 would make every value the same")
}

// typed checks that only keys of a value's type are given.
func (k points) typed(kind, on, off string, low, high *float64, at string) {
	others := []string{"unit", "scale", "offset", "min", "max", "deadband"}
	only := "number"
	if kind == "number" {
		others, only = []string{"on", "off"}, "bool"
	}
	for _, key := range others {
		k.want(!k.given(at+"."+key), at+"."+key, "only with type: %s", only)
	}
	if kind == "text" {
		k.want(!k.given(at+".on") && !k.given(at+".off"), at+".on", "only with type: bool")
	}
	if kind == "bool" {
		k.switchWords(on, off, at)
	}
	k.want(low == nil || high == nil || *low <= *high, at+".min", "larger than max")
}
