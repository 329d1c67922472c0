package passwd

import (
	"crypto/hmac"
	"crypto/sha512"
	"encoding/binary"
	"runtime"
	"time"
)

// A turn is how long a password is hashed without a pause.
const turn = time.Millisecond

// stretch is PBKDF2 with HMAC-SHA-512 (RFC 8018, 5.2), as that of the standard library, but with
// pauses where there is one processor only. Without them it would keep that for slices of 10 ms, and nobody
// would look what comes from the network in between. Of more processors a Pool is to leave one free, and a
// pause, which takes a millisecond in the end, would double the time.
func stretch(password, salt []byte, iterations, size int) []byte {
	prf := hmac.New(sha512.New, password)
	var key, u []byte
	begin, alone := time.Now(), runtime.GOMAXPROCS(0) == 1
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
			if alone && i%64 == 0 && time.Since(begin) > turn {
				time.Sleep(turn / 8)
				begin = time.Now()
			}
		}
		key = append(key, t...)
	}
	return key[:size]
}
