package broker

// A round writes to the connections that one message goes to, in the goroutine that has routed it.
// For a message that comes alone this saves a goroutine for each of them, and on several processors
// the time of waking these.
//
// To take part a connection must be a plain socket that nobody is writing to. It then belongs to
// the round until that ends: no goroutine is started for it, so that nothing may be waited for in
// between. What a socket does not take at once is left to a goroutine, like all else that waits.
type round struct {
	open bool
	outs []*out // that belong to the round, written to from the last to the first
	left int    // connections for which goroutines were started instead
}

// mostRound is to how many connections a goroutine writes before it goes on with its own work.
const mostRound = 8

// begin opens a round, with the publisher's own connection if that is to be answered, which is then
// the last.
func (r *round) begin(own *out) {
	r.open = true
	if own != nil {
		own.mu.Lock()
		r.join(own)
		own.mu.Unlock()
	}
}

// join lets a connection, which is locked, take part. It reports false if it does not, as when r is
// nil.
func (r *round) join(o *out) bool {
	if r == nil || !r.open || o.port == nil || o.flushing || o.ending || len(r.outs) >= mostRound {
		return false
	}
	o.flushing = true
	o.flushers.Add(1)
	r.outs = append(r.outs, o)
	return true
}

// pause lets go of the connections of a round for as long as f takes.
func (r *round) pause(f func()) {
	open := r.open
	r.end()
	f()
	r.open = open
}

// end writes what waits for the connections of the round.
func (r *round) end() {
	r.open = false
	for i := len(r.outs) - 1; i >= 0; i-- {
		r.write(r.outs[i])
		r.outs[i] = nil
	}
	r.outs = r.outs[:0]
}

// write writes what waits now, and does not wait for the socket. What is left then, or has come
// meanwhile, is for a goroutine.
func (r *round) write(o *out) {
	o.mu.Lock()
	var d draft
	if !o.ending && !o.wanted {
		d = o.buf.take()
	}
	o.mu.Unlock()
	var rest []byte
	var err error
	if !d.empty() {
		d.count(&o.srv.stats)
		//crash:before-write
		rest, err = o.port.write(*d.b)
		//crash:written
	}
	o.mu.Lock()
	if len(rest) > 0 && err == nil {
		d.packets, d.counted = o.buf.packets, len(rest)
		*d.b = append(append((*d.b)[:0], rest...), *o.buf.open()...)
		o.buf, d = d, o.buf
	}
	d.free()
	done := err == nil && o.buf.empty() && !o.ending
	o.flushing = !done
	less := o.less
	o.mu.Unlock()
	if err != nil {
		o.fail(err)
	}
	if !done {
		go o.work()
		return
	}
	less.give()
	o.flushers.Done()
}
