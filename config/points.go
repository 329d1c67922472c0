package config

import "time"

// Report says how a point's readings become messages.
type Report struct {
	Heartbeat   time.Duration `yaml:"heartbeat" default:"1m" range:"0s..24h"`    // a reading within the deadband is reported all the same when the last was so long ago; 0s: every reading is reported
	MinInterval time.Duration `yaml:"min_interval" default:"0s" range:"0s..24h"` // shortest time between two readings
	Payload     string        `yaml:"payload" default:"json" words:"json plain"` // plain: the bare value
	Retain      bool          `yaml:"retain" default:"true"`                     // the broker keeps the last one for later subscribers
}

// An Input is an entry of section "inputs": a digital line that is read.
type Input struct {
	Point     string        `yaml:"point,required"` // the topic of its readings
	Line      string        `yaml:"line,required"`  // the kernel's name, GPIO17, or gpiochip0:17
	Pull      string        `yaml:"pull" default:"none" words:"none up down"`
	ActiveLow bool          `yaml:"active_low" default:"false"` // a low level means on
	Debounce  time.Duration `yaml:"debounce" default:"20ms" range:"0s..10s"`
	On        string        `yaml:"on" default:"on"` // the words of the two states
	Off       string        `yaml:"off" default:"off"`
	Report    `yaml:",inline"`
}

// Command says which commands an output takes, and what becomes of it when none come.
type Command struct {
	MaxAge   time.Duration `yaml:"max_age" default:"30s" range:"1s..24h"`     // an older command is refused
	Lease    time.Duration `yaml:"lease" default:"0s" range:"0s..7d"`         // safe again unless commanded within; 0s never
	LinkLoss *LinkLoss     `yaml:"link_loss"`                                 // nil: the link does not matter
	Payload  string        `yaml:"payload" default:"json" words:"json plain"` // of <point>/state
}

// An Output is an entry of section "outputs": a digital line that is switched by messages to
// <point>/set.
type Output struct {
	Point     string        `yaml:"point,required"`
	Line      string        `yaml:"line,required"`
	ActiveLow bool          `yaml:"active_low" default:"false"` // a low level means on
	Safe      string        `yaml:"safe,required"`              // the word of the state at start, at exit, and when commands stop coming
	On        string        `yaml:"on" default:"on"`
	Off       string        `yaml:"off" default:"off"`
	MinOn     time.Duration `yaml:"min_on" default:"0s" range:"0s..24h"` // dwell times; the safe state does not wait for them
	MinOff    time.Duration `yaml:"min_off" default:"0s" range:"0s..24h"`
	Command   `yaml:",inline"`
}

// SafeOn tells whether the safe state is the switched-on one.
func (o Output) SafeOn() bool { return o.Safe == o.On }

// LinkLoss makes an output safe when a bridge has been down for a while.
type LinkLoss struct {
	Bridge string        `yaml:"bridge,required"`
	After  time.Duration `yaml:"after,required" range:"1s..7d"`
}

// A Serial is an entry of section "serial": a port on which a device sends frames.
type Serial struct {
	Port      string        `yaml:"port,required"` // best of /dev/serial/by-id
	Baud      int           `yaml:"baud" default:"9600" range:"50..4000000"`
	DataBits  int           `yaml:"data_bits" default:"8" range:"5..8"`
	Parity    string        `yaml:"parity" default:"none" words:"none even odd"`
	StopBits  int           `yaml:"stop_bits" default:"1" range:"1..2"`
	Delimiter string        `yaml:"delimiter" default:"\n"`                          // ends a frame
	MaxFrame  int64         `yaml:"max_frame,size" default:"1024" range:"16..64KiB"` // a longer one is dropped
	Idle      time.Duration `yaml:"idle" default:"60s" range:"0s..24h"`              // after so much silence the points are bad; 0 never
	Frames    []Frame       `yaml:"frames"`
	Writes    []Write       `yaml:"writes"`
}

// A Frame says how the fields of a frame become points.
type Frame struct {
	Format    string  `yaml:"format,required" words:"json split regexp"`
	Match     string  `yaml:"match"`     // only frames that this regular expression matches
	Separator string  `yaml:"separator"` // split: default ","
	Pattern   string  `yaml:"pattern"`   // regexp: RE2 syntax
	Fields    []Field `yaml:"fields"`
}

// A Field is one value of a frame.
type Field struct {
	Field    string   `yaml:"field,text,required"` // json: a path, as air or sensors.0.t; split: the column, from 0; regexp: the group's name or number
	Point    string   `yaml:"point,required"`      // the topic of its readings
	Type     string   `yaml:"type" default:"number" words:"number bool text"`
	On       string   `yaml:"on" default:"on"` // bool: the words of the two states
	Off      string   `yaml:"off" default:"off"`
	Unit     string   `yaml:"unit"`
	Scale    float64  `yaml:"scale" default:"1"` // value = raw * scale + offset
	Offset   float64  `yaml:"offset" default:"0"`
	Min      *float64 `yaml:"min"` // a value outside is bad; nil: no bound
	Max      *float64 `yaml:"max"`
	Deadband float64  `yaml:"deadband" default:"0" range:"0..1e12"` // a smaller change is not reported
	Report   `yaml:",inline"`
}

// A Write is a text that a message to <point>/set sends down the port. Where a field of the
// port's frames has the same point, the device tells its state by it.
type Write struct {
	Point    string        `yaml:"point,required"`
	Template string        `yaml:"template,required"` // {value} stands for the command's value; the delimiter is added
	Type     string        `yaml:"type" default:"text" words:"number bool text"`
	On       string        `yaml:"on" default:"on"` // bool: the words of the two states
	Off      string        `yaml:"off" default:"off"`
	Unit     string        `yaml:"unit"`
	Min      *float64      `yaml:"min"` // a command outside is refused; nil: no bound
	Max      *float64      `yaml:"max"`
	Safe     string        `yaml:"safe,text"`                            // the value that is safe; empty: the device looks after itself
	Reply    time.Duration `yaml:"reply" default:"3s" range:"100ms..1m"` // how long the device may take to tell its new state
	Command  `yaml:",inline"`
}
