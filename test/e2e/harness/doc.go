// Package harness runs whole planes for the end-to-end tests: real daemons as
// child processes, on a store in a temporary directory, with the recorder as
// their managed service.
//
//	func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
//
//	p := harness.NewPlane(t, harness.Options{Nodes: 3})
//	p.Start()
//	master, _ := p.WaitMaster(20 * time.Second)
//	at := master.KillTree()
//	next := p.WaitStart(at, 10 * time.Second)
//	t.Log(next.Start.Sub(at))
//
// What counts is what the services wrote about themselves (package intervals),
// not what the daemons say. At the end of each test the harness kills what is
// left of the plane, removes its files, and fails the test if two services
// were ever alive at once, a term fell, or a process could not be ended.
//
// Processes are found by a mark in their environment, which everything that a
// daemon starts inherits, however it detaches itself. Nothing else is ever
// signalled. A test process that dies takes its daemons along, and they their
// guards and services.
package harness
