package journal

import (
	"encoding/binary"
	"hash/crc32"
)

// Summed puts the right checksum in the place of the last four bytes, so that a
// fuzzer gets past it.
func Summed(b []byte) []byte {
	if len(b) < 4 {
		return b
	}
	body := b[: len(b)-4 : len(b)-4]
	return binary.LittleEndian.AppendUint32(body, crc32.Checksum(body, castagnoli))
}
