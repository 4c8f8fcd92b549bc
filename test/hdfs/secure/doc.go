// Package secure tries the HDFS store on a real HDFS that wants Kerberos, with
// each protection of its connections, and while tickets run out. `make
// conformance-hdfs` runs it; it is in no suite of `make test`.
package secure
