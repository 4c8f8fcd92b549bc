// Package ec2 stops instances of Amazon EC2 and moves Elastic IP addresses, by
// the AWS SDK. It is all that Understudy asks of that service: package fence
// powers a former master off with it, and the daemon moves the address that
// clients use.
//
// Every answer that matters is asked for: a stop counts once the instance is
// described as stopped, an association once the address is described as this
// machine's. Calls are signed with the credentials that the AWS tools would
// use, are bounded by their context, and are sent again a few times at most.
package ec2
