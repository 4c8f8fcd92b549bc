// Package cluster runs a real HDFS for tests: two NameNodes with failover,
// three JournalNodes and one DataNode, each a JVM of its own, on loopback, of
// the Hadoop release that pom.xml names. test/hdfs/fetch puts its jars into
// bin/.
//
// There is no ZooKeeper: which NameNode is active is decided by the tests
// (Activate, Failover), which can also kill, hang and restart every part.
package cluster
