package offline

import "sync/atomic"

// A Way is what a store gives to others in the middle of long work. The zero Way is given to nobody.
type Way struct{ f atomic.Pointer[func()] }

// GiveWay has f called in the middle of long work, each 300 µs or so. It may wait for others who use the
// processor, for a short time: commits and acknowledgements wait with it.
func (w *Way) GiveWay(f func()) { w.f.Store(&f) }

// stride is how many units are worked on, for some 300 µs, before others may have the processor. A quarter of
// it made a durable message of eight publishers cost a tenth more.
const stride = 128

// step gives way before the unit with a number in its batch, if it is due.
func (w *Way) step(i int) {
	if f := w.f.Load(); f != nil && i%stride == stride-1 {
		(*f)()
	}
}
