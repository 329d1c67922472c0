package config

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"os"
	"strings"
)

// ReadKey reads a PEM file with a private key, and returns it as PEM that is not encrypted. A file
// that is needs the password: "ENCRYPTED PRIVATE KEY" of PKCS #8 (RFC 5958) with PBES2, PBKDF2 and
// AES-CBC (RFC 8018), as openssl genpkey -aes256 and openssl pkcs8 -topk8 -v2 aes-256-cbc write it.
func ReadKey(file string, password Secret) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	switch {
	case block == nil:
		return text, nil // whoever parses it says what is wrong
	case strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
		return nil, fmt.Errorf("%s is encrypted in a way that is easily broken: convert it with openssl pkcs8 -topk8 -v2 aes-256-cbc", file)
	case block.Type != "ENCRYPTED PRIVATE KEY":
		return text, nil
	case password.IsZero():
		return nil, fmt.Errorf("%s is encrypted: give its password as key_password", file)
	}
	word, err := password.Reveal()
	if err != nil {
		return nil, fmt.Errorf("the password of %s: %w", file, err)
	}
	key, err := decryptKey(block.Bytes, word)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), nil
}

// The structures of an encrypted key (RFC 5958, 3; RFC 8018, A.2 and A.4).
type (
	encryptedKey struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	pbes2Parameters struct {
		Derivation, Encryption pkix.AlgorithmIdentifier
	}
	pbkdf2Parameters struct {
		Salt       []byte
		Iterations int
		Length     int                      `asn1:"optional"`
		Function   pkix.AlgorithmIdentifier `asn1:"optional"`
	}
)

// Names of algorithms, and what they stand for.
const (
	oidPBES2  = "1.2.840.113549.1.5.13"
	oidPBKDF2 = "1.2.840.113549.1.5.12"
)

var derivations = map[string]func() hash.Hash{
	"": sha1.New, "1.2.840.113549.2.7": sha1.New, "1.2.840.113549.2.9": sha256.New,
	"1.2.840.113549.2.10": sha512.New384, "1.2.840.113549.2.11": sha512.New,
}

var keyBytes = map[string]int{
	"2.16.840.1.101.3.4.1.2": 16, "2.16.840.1.101.3.4.1.22": 24, "2.16.840.1.101.3.4.1.42": 32,
}

// maxIterations bounds the time that a key takes: seconds on a small board.
const maxIterations = 1_000_000

var errKeyFormat = errors.New("its encryption is not known here: convert it with openssl pkcs8 -topk8 -v2 aes-256-cbc")

// decryptKey returns the PrivateKeyInfo in an EncryptedPrivateKeyInfo.
func decryptKey(der []byte, password string) ([]byte, error) {
	var (
		outer  encryptedKey
		scheme pbes2Parameters
		kdf    pbkdf2Parameters
		iv     []byte
	)
	if err := parseAll(der, &outer); err != nil || outer.Algorithm.Algorithm.String() != oidPBES2 {
		return nil, errKeyFormat
	}
	if err := parseAll(outer.Algorithm.Parameters.FullBytes, &scheme); err != nil || scheme.Derivation.Algorithm.String() != oidPBKDF2 {
		return nil, errKeyFormat
	}
	if err := parseAll(scheme.Derivation.Parameters.FullBytes, &kdf); err != nil {
		return nil, errKeyFormat
	}
	if err := parseAll(scheme.Encryption.Parameters.FullBytes, &iv); err != nil {
		return nil, errKeyFormat
	}
	size := keyBytes[scheme.Encryption.Algorithm.String()]
	function := derivations[kdf.Function.Algorithm.String()]
	if size == 0 || function == nil || len(iv) != aes.BlockSize || kdf.Iterations < 1 || kdf.Iterations > maxIterations ||
		len(outer.Data) == 0 || len(outer.Data)%aes.BlockSize != 0 {
		return nil, errKeyFormat
	}
	key, err := pbkdf2.Key(function, password, kdf.Salt, kdf.Iterations, size)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(outer.Data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, outer.Data)
	pad := int(plain[len(plain)-1])
	if pad < 1 || pad > aes.BlockSize || pad > len(plain) {
		return nil, errKeyPassword
	}
	plain = plain[:len(plain)-pad]
	var whole asn1.RawValue
	if err := parseAll(plain, &whole); err != nil {
		return nil, errKeyPassword
	}
	return plain, nil
}

var errKeyPassword = errors.New("key_password does not open it")

// parseAll parses a value that fills all of der.
func parseAll(der []byte, into any) error {
	rest, err := asn1.Unmarshal(der, into)
	if err == nil && len(rest) > 0 {
		err = errKeyFormat
	}
	return err
}
