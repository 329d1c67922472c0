package config

import "time"

// A Queue is a section "queue": what may wait for one receiver that is away.
type Queue struct {
	Messages int           `yaml:"messages" range:"0..10000000"`
	Size     int64         `yaml:"size,size" range:"0..1GB"`
	Age      time.Duration `yaml:"age" range:"0s..365d"`
	Full     string        `yaml:"full" words:"drop_oldest drop_newest refuse"`
}

// queue checks a section "queue", and that one packet fits into it.
func (k *checker) queue(q Queue, c *Config, key string) {
	k.want(q.Size == 0 || q.Size >= c.Limits.PacketSize, key+".size", "at least limits.packet_size, %d bytes, or one message could never be kept", c.Limits.PacketSize)
	k.want(q.Size <= c.Store.MaxSize, key+".size", "at most store.max_size, %d bytes", c.Store.MaxSize)
	k.want(q.Age == 0 || q.Age >= time.Second, key+".age", "0s, or at least 1s")
}
