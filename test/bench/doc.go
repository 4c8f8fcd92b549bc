// Package bench measures, with ratios taken in one run, so that what is
// compared met the same machine: `make bench`.
package bench
