package passwd

import (
	"crypto/hmac"
	"crypto/sha512"
	"encoding/binary"
	"time"
)

// A turn is how long a password is hashed without a pause.
const turn = time.Millisecond

// stretch is PBKDF2 with HMAC-SHA-512 (RFC 8018, 5.2), as that of the standard library, but with
// pauses. Without them it would keep its processor for slices of 10 ms, and while all processors
// hash, nobody would look what comes from the network in between.
func stretch(password, salt []byte, iterations, size int) []byte {
	prf := hmac.New(sha512.New, password)
	var key, u []byte
	begin := time.Now()
	for block := uint32(1); len(key) < size; block++ {
		prf.Reset()
		prf.Write(salt)
		prf.Write(binary.BigEndian.AppendUint32(nil, block))
		u = prf.Sum(u[:0])
		t := append([]byte(nil), u...)
		for i := 1; i < iterations; i++ {
			prf.Reset()
			prf.Write(u)
			u = prf.Sum(u[:0])
			for j := range t {
				t[j] ^= u[j]
			}
			if i%64 == 0 && time.Since(begin) > turn {
				time.Sleep(turn / 8)
				begin = time.Now()
			}
		}
		key = append(key, t...)
	}
	return key[:size]
}
