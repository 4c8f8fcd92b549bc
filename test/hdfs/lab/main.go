// Command lab runs the HDFS of the tests for a person: make hdfs-up, hdfs-down,
// and what can be done to it in between.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/understudy-ha/understudy/test/hdfs/cluster"
)

const usage = `usage: lab DIR COMMAND
  up               start two NameNodes, three JournalNodes and a DataNode
  down             end them and remove DIR
  status           what runs, and which NameNode is active
  failover         make the other NameNode active
  kill NAME        SIGKILL, of nn1 nn2 jn1 jn2 jn3 dn
  hang NAME        SIGSTOP: its port takes connections and nothing is answered
  resume NAME      SIGCONT
  start NAME       start it again; a NameNode comes back as standby
`

var errUsage = errors.New("no such command; call it without arguments to see those there are")

func main() {
	if len(os.Args) < 3 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1) //nolint:gocritic // the context ends with the process
	}
}

func run(ctx context.Context, dir, command string, args []string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if command == "up" {
		return up(ctx, dir)
	}
	c, err := cluster.Attach(dir)
	if err != nil {
		return fmt.Errorf("%w; start it with: make hdfs-up", err)
	}
	switch command {
	case "down":
		if err := c.Stop(); err != nil {
			return err
		}
		return os.RemoveAll(dir)
	case "status":
		return status(ctx, c)
	case "failover":
		now, err := c.Failover(ctx)
		if err == nil {
			fmt.Println(now.Name, "is active")
		}
		return err
	}
	return one(ctx, c, command, args)
}

// one does something to one daemon.
func one(ctx context.Context, c *cluster.Cluster, command string, args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	d, err := c.Daemon(args[0])
	if err != nil {
		return err
	}
	switch command {
	case "kill":
		return d.Kill()
	case "hang":
		return d.Hang()
	case "resume":
		return d.Resume()
	case "start":
		if err := c.Restart(ctx, d); err != nil {
			return err
		}
		return c.Save()
	}
	return errUsage
}

func up(ctx context.Context, dir string) error {
	if c, err := cluster.Attach(dir); err == nil {
		return status(ctx, c)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // nothing secret
		return err
	}
	c, err := cluster.Start(ctx, dir, cluster.Settings{}, true)
	if err != nil {
		return err
	}
	if err := c.Save(); err != nil {
		return errors.Join(err, c.Stop())
	}
	return status(ctx, c)
}

func status(ctx context.Context, c *cluster.Cluster) error {
	for _, d := range append(append(c.NameNodes(), c.Journals...), c.Datanode) {
		state := "down"
		if d.Running() {
			state = fmt.Sprintf("pid %d, port %d", d.Pid, d.RPC)
		}
		fmt.Printf("%-4s %s\n", d.Name, state)
	}
	ask, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if nn, err := c.Active(ask); err == nil {
		fmt.Println(nn.Name, "is active")
	} else {
		fmt.Println(err)
	}
	fmt.Printf("export HADOOP_CONF_DIR=%s HADOOP_USER_NAME=%s\nexample: bin/understudy store verify hdfs://%s/somewhere\n", c.ConfDir(), cluster.User, cluster.Nameservice)
	return nil
}
