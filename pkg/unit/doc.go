// Package unit has systemd run the managed service: an existing unit, started on
// promotion and stopped at the end of the term (service.systemd).
//
// The unit's processes are systemd's children, not the guard's, so this is a
// service that others run (see guard.Outside), and this package is its commands,
// short processes of this binary by Main:
//
//	unit run NAME               starts the unit and stays as long as it is active: the service's command
//	unit stop NAME KILL-AFTER   stops it, by SIGKILL when it takes too long, leftovers included
//	unit probe NAME             7: it is inactive and its cgroup is empty; 0: it is not; else: not known
//	unit ready NAME             0: it has started; the readiness check, if there is no other
//
// The guard runs stop and probe itself, with the daemon dead as well.
//
// They speak to systemd over D-Bus: as root by its private socket, so that no
// message bus needs to be alive, otherwise by the system bus. "Inactive" is
// systemd's word, "empty" the kernel's: cgroup.events of the unit's control group.
// Jobs are waited for by looking, not by signals, which can be missed.
package unit
