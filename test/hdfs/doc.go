// Package hdfs tries the HDFS store, and planes on it, on a real HDFS (package
// cluster): two NameNodes that fail over, are killed and are hung.
//
// What needs minutes runs with HDFS_FULL=1 only, which `make conformance-hdfs`
// (part of `make conformance-all`) sets; the rest is the suite hdfs of `make
// test`.
package hdfs
