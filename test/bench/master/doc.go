// Package master measures how much of what a plain net/http server gives is left
// of /master: `make bench`. Both run as processes of their own, over TLS, asked
// in turns by the same client, so that what else the machine does meets both.
package master
