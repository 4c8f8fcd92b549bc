// Package lease is the vocabulary of mastership: node ids, terms, instants of
// a machine's own clock, the one line that a plane's register holds, and the
// advisory node record. It holds values and their codecs only; it never reads
// a clock, draws a random number or does I/O.
//
// The register is one compare-and-swap cell per plane. Its line is
//
//	u1.<plane 8>.<term 12 hex>.<seq 14 hex>.<h|r><flag>.<leaseMs 8 hex>.<holder 8>.<to 8>.<incarnation 26>.<writeId 26>.<headSeq 12 hex>-<headRand 16>
//
// 153 bytes out of [0-9a-z.-], so that it is a legal file name on every file
// system and on HDFS. No two attempts ever produce the same line, because each
// carries a writeId of its own: whoever reads the register knows which attempt
// of which run of which node put it there.
package lease
