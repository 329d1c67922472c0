package passwd

import (
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// A Kind is a way to hash a password, by the names that mosquitto_passwd has for them.
type Kind string

// The kinds.
const (
	SHA512   Kind = "sha512"        // $6$: fast to guess, for files of old
	PBKDF2   Kind = "sha512-pbkdf2" // $7$
	Argon2id Kind = "argon2id"      // $argon2id$, as Mosquitto writes it since 2.1
)

// DefaultIterations of PBKDF2 cost a tenth of a second on a small board. Mosquitto up to 2.0 writes
// 101.
const DefaultIterations = 50_000

// Limits of what a line may ask for: a file is no reason to stand still, or to run out of memory.
const (
	maxIterations = 10_000_000
	maxMemory     = 256 << 10 // KiB of argon2id
	maxTime       = 64
	maxThreads    = 16
	maxSalt       = 256
	minKey        = 16
	maxKey        = 256
)

// argon2id as Mosquitto writes it.
const (
	argonMemory = 46 << 10 // KiB
	argonTime   = 1
	argonSalt   = 16
	argonKey    = 32
)

// A hash is what a file has in the place of a password.
type hash struct {
	cost
	salt, key string
}

// A cost is what it takes to check a password. Two passwords of the same cost take the same time.
type cost struct {
	kind       Kind
	iterations int    // of PBKDF2, or the time of argon2id
	memory     uint32 // KiB, of argon2id
	threads    uint8  // of argon2id
	saltSize   int    // bytes
	keySize    int    // bytes
}

// of returns the hash of a password with a salt.
func (c cost) of(password, salt []byte) []byte {
	switch c.kind {
	case SHA512:
		sum := sha512.Sum512(append(password[:len(password):len(password)], salt...))
		return sum[:]
	case PBKDF2:
		return stretch(password, salt, c.iterations, c.keySize)
	default:
		return argon2.IDKey(password, salt, uint32(c.iterations), c.memory, c.threads, uint32(c.keySize))
	}
}

// fits reports whether the hash is one of a password.
func (h *hash) fits(password []byte) bool {
	return subtle.ConstantTimeCompare(h.of(password, []byte(h.salt)), []byte(h.key)) == 1
}

// Hash returns what stands for a password in a file. Iterations are for PBKDF2; 0 stands for the
// default.
func Hash(password []byte, k Kind, iterations int) (string, error) {
	c := cost{kind: k, iterations: iterations, saltSize: 12, keySize: sha512.Size}
	switch {
	case len(password) == 0:
		return "", fmt.Errorf("an empty password lets everybody in")
	case k == SHA512:
	case k == PBKDF2 && iterations == 0:
		c.iterations = DefaultIterations
	case k == PBKDF2 && (iterations < 1 || iterations > maxIterations):
		return "", fmt.Errorf("from 1 to %d iterations, not %d", maxIterations, iterations)
	case k == PBKDF2:
	case k == Argon2id:
		c = cost{kind: k, iterations: argonTime, memory: argonMemory, threads: 1, saltSize: argonSalt, keySize: argonKey}
	default:
		return "", fmt.Errorf("a password is hashed with %s, %s or %s, not %q", SHA512, PBKDF2, Argon2id, k)
	}
	salt := make([]byte, c.saltSize)
	rand.Read(salt)
	key := c.of(password, salt)
	switch k {
	case SHA512:
		return "$6$" + encode(salt) + "$" + encode(key), nil
	case PBKDF2:
		return "$7$" + strconv.Itoa(c.iterations) + "$" + encode(salt) + "$" + encode(key), nil
	default:
		raw := base64.RawStdEncoding
		return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, c.memory, c.iterations, c.threads, raw.EncodeToString(salt), raw.EncodeToString(key)), nil
	}
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// parse reads what stands behind a name in a file. Its errors do not repeat it: it could be a
// password.
func parse(words string) (h hash, err error) {
	parts := strings.Split(strings.TrimSpace(words), "$")
	switch {
	case len(parts) == 4 && parts[0] == "" && parts[1] == "6":
		h.cost = cost{kind: SHA512}
	case len(parts) == 5 && parts[0] == "" && parts[1] == "7":
		h.kind = PBKDF2
		if h.iterations, err = number(parts[2], "iterations", maxIterations); err != nil {
			return hash{}, err
		}
	case len(parts) == 6 && parts[0] == "" && parts[1] == "argon2id":
		if h.cost, err = parseArgon(parts[2], parts[3]); err != nil {
			return hash{}, err
		}
	default:
		return hash{}, fmt.Errorf("no hash of a password: $6$, $7$ or $argon2id$ begins one; a file of plain passwords is hashed by gateway passwd -U")
	}
	salt, err := decode(parts[len(parts)-2], 1, maxSalt)
	if err != nil {
		return hash{}, fmt.Errorf("the salt: %w", err)
	}
	least, most := minKey, maxKey
	if h.kind == SHA512 {
		least, most = sha512.Size, sha512.Size
	}
	key, err := decode(parts[len(parts)-1], least, most)
	if err != nil {
		return hash{}, fmt.Errorf("the hash: %w", err)
	}
	h.salt, h.key = string(salt), string(key)
	h.saltSize, h.keySize = len(salt), len(key)
	return h, nil
}

// parseArgon reads "v=19" and "m=47104,t=1,p=1".
func parseArgon(version, params string) (cost, error) {
	if version != fmt.Sprintf("v=%d", argon2.Version) {
		return cost{}, fmt.Errorf("another version of argon2id than v=%d", argon2.Version)
	}
	p := strings.Split(params, ",")
	if len(p) != 3 || !strings.HasPrefix(p[0], "m=") || !strings.HasPrefix(p[1], "t=") || !strings.HasPrefix(p[2], "p=") {
		return cost{}, fmt.Errorf("the parameters of argon2id are m=KiB,t=TIME,p=THREADS")
	}
	memory, err := number(p[0][2:], "KiB of memory", maxMemory)
	if err != nil {
		return cost{}, err
	}
	time, err := number(p[1][2:], "passes", maxTime)
	if err != nil {
		return cost{}, err
	}
	threads, err := number(p[2][2:], "threads", maxThreads)
	if err != nil {
		return cost{}, err
	}
	return cost{kind: Argon2id, iterations: time, memory: uint32(memory), threads: uint8(threads)}, nil
}

func number(s, what string, most int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("%s are a number from 1 to %d", what, most)
	}
	return n, nil
}

// decode reads base64, with or without padding.
func decode(s string, least, most int) ([]byte, error) {
	b, err := base64.RawStdEncoding.Strict().DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return nil, fmt.Errorf("no base64")
	}
	if len(b) < least || len(b) > most {
		return nil, fmt.Errorf("from %d to %d bytes, not %d", least, most, len(b))
	}
	return b, nil
}
