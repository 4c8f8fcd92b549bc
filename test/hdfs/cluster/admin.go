package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// What `hdfs haadmin` and `hdfs dfsadmin` speak. It is spoken here rather than by
// these programs because a JVM takes longer to begin than a failover may.
const (
	haProtocol     = "org.apache.hadoop.ha.HAServiceProtocol"
	clientProtocol = "org.apache.hadoop.hdfs.protocol.ClientProtocol"
)

// by is HAStateChangeRequestInfoProto with REQUEST_BY_USER.
func by() []byte {
	info := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 0)
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), info)
}

// Activate makes a NameNode active. The other one must be standby, or gone: the
// JournalNodes then take nothing more from it.
func (c *Cluster) Activate(ctx context.Context, d *Daemon) error {
	var err error
	for { // it refuses until it has read its image
		if _, err = call(ctx, d, haProtocol, "transitionToActive", by()); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("activate %s: %w", d.Name, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Failover makes the standby active: in order when the active one answers, and
// over its head when it does not.
func (c *Cluster) Failover(ctx context.Context) (now *Daemon, err error) {
	for _, d := range c.Names {
		if !d.Running() {
			continue
		}
		quick, cancel := context.WithTimeout(ctx, time.Second)
		state, err := c.State(quick, d)
		if err == nil && state == "active" {
			_, err = call(quick, d, haProtocol, "transitionToStandby", by())
			now = c.Other(d)
		}
		cancel()
		if err != nil {
			now = c.Other(d) // hung, as far as can be told
		}
		if now != nil {
			break
		}
	}
	if now == nil {
		for _, d := range c.Names {
			if d.Running() {
				now = d
			}
		}
	}
	if now == nil {
		return nil, errors.New("no NameNode runs")
	}
	return now, c.Activate(ctx, now)
}

// State is "active", "standby" or "initializing".
func (c *Cluster) State(ctx context.Context, d *Daemon) (string, error) {
	if c.settings.Single {
		return "active", nil
	}
	resp, err := call(ctx, d, haProtocol, "getServiceStatus", nil)
	if err != nil {
		return "", err
	}
	_, _, n := protowire.ConsumeTag(resp)
	v, m := protowire.ConsumeVarint(resp[max(n, 0):])
	states := []string{"initializing", "active", "standby", "observer"}
	if n < 0 || m < 0 || v >= uint64(len(states)) {
		return "", fmt.Errorf("%s answers %x", d.Name, resp)
	}
	return states[v], nil
}

// SafeMode has a NameNode take no changes, or take them again.
func (c *Cluster) SafeMode(ctx context.Context, d *Daemon, on bool) error {
	const leave, enter = 1, 2
	action := uint64(leave)
	if on {
		action = enter
	}
	_, err := call(ctx, d, clientProtocol, "setSafeMode", protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), action))
	return err
}

// Quota limits the names at and beneath a directory; the space stays as it is.
func (c *Cluster) Quota(ctx context.Context, d *Daemon, dir string, names uint64) error {
	const asItIs = 1<<63 - 1
	args := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), dir)
	args = protowire.AppendVarint(protowire.AppendTag(args, 2, protowire.VarintType), names)
	args = protowire.AppendVarint(protowire.AppendTag(args, 3, protowire.VarintType), asItIs)
	_, err := call(ctx, d, clientProtocol, "setQuota", args)
	return err
}

// call is one request of Hadoop's RPC, version 9, without authentication, on a
// connection of its own. args is the encoded message.
func call(ctx context.Context, d *Daemon, protocol, method string, args []byte) ([]byte, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address(d.RPC))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	client := make([]byte, 16)
	_, _ = rand.Read(client) // never fails
	header := func(id int64) []byte {
		b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 2) // RPC_PROTOCOL_BUFFER
		b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), 0)    // RPC_FINAL_PACKET
		b = protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.VarintType), protowire.EncodeZigZag(id))
		return protowire.AppendBytes(protowire.AppendTag(b, 4, protowire.BytesType), client)
	}
	text := func(b []byte, field protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
	}
	user := text(nil, 1, User)
	about := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), user)
	request := text(text(nil, 1, method), 2, protocol)
	request = protowire.AppendVarint(protowire.AppendTag(request, 3, protowire.VarintType), 1)

	out := append([]byte("hrpc"), 9, 0, 0)
	out = append(out, packet(header(-3), text(about, 3, protocol))...)
	out = append(out, packet(header(1), request, args)...)
	if _, err := conn.Write(out); err != nil {
		return nil, err
	}
	var length uint32
	if err := binary.Read(conn, binary.BigEndian, &length); err != nil {
		return nil, err
	}
	reply := make([]byte, min(length, 1<<20))
	if _, err := io.ReadFull(conn, reply); err != nil {
		return nil, err
	}
	return body(d, method, reply)
}

func packet(messages ...[]byte) []byte {
	var b []byte
	for _, m := range messages {
		b = protowire.AppendBytes(b, m)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) //nolint:gosec // small
}

// body takes a reply apart: its header with status, class and message of an
// error, then the message that was asked for.
func body(d *Daemon, method string, reply []byte) ([]byte, error) {
	head, n := protowire.ConsumeBytes(reply)
	if n < 0 {
		return nil, fmt.Errorf("%s: %s: a reply that is none", d.Name, method)
	}
	status, said := uint64(0), ""
	for b := head; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		n = protowire.ConsumeFieldValue(num, typ, b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		switch int(num) {
		case 2:
			status, _ = protowire.ConsumeVarint(b)
		case 5:
			v, _ := protowire.ConsumeBytes(b)
			said, _, _ = strings.Cut(string(v), "\n")
		}
		b = b[n:]
	}
	if status != 0 {
		return nil, fmt.Errorf("%s: %s: %s", d.Name, method, said)
	}
	answer, n := protowire.ConsumeBytes(reply[n:])
	if n < 0 {
		return nil, nil // an empty message
	}
	return answer, nil
}

// Requests are those that clients have made of a NameNode since it began, by
// method, as its metrics have them. What the cluster's own parts ask is left out.
func (c *Cluster) Requests(ctx context.Context, d *Daemon) (map[string]int, error) {
	var all map[string]any
	if err := c.JMX(ctx, d, fmt.Sprintf("Hadoop:service=NameNode,name=RpcDetailedActivityForPort%d", d.RPC), &all); err != nil {
		return nil, err
	}
	own := map[string]bool{ // DataNodeProtocol, NamenodeProtocol, HAServiceProtocol
		"SendHeartbeat": true, "BlockReport": true, "BlockReceivedAndDeleted": true, "RegisterDatanode": true, "VersionRequest": true,
		"SendLifeline": true, "CommitBlockSynchronization": true, "RollEditLog": true, "GetTransactionID": true, "GetEditLogManifest": true,
		"GetServiceStatus": true, "MonitorHealth": true, "TransitionToActive": true, "TransitionToStandby": true,
		"StandbyException": true, "RetriableException": true,
	}
	out := map[string]int{}
	for k, v := range all {
		method, ok := strings.CutSuffix(k, "NumOps")
		if n, number := v.(float64); ok && number && n > 0 && !own[method] && !strings.HasPrefix(method, "Overall") { // which are sums over all ports
			out[method] = int(n)
		}
	}
	return out, nil
}

// Audit is what each user's requests of a NameNode have been, as its audit log
// has them: by user, then by command.
func (c *Cluster) Audit(d *Daemon) (map[string]map[string]int, error) {
	b, err := os.ReadFile(c.auditPath(d.Name))
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]int{}
	for line := range strings.Lines(string(b)) {
		var user, command string
		for field := range strings.FieldsSeq(line) {
			if v, ok := strings.CutPrefix(field, "ugi="); ok {
				user = v
			}
			if v, ok := strings.CutPrefix(field, "cmd="); ok {
				command = v
			}
		}
		if out[user] == nil {
			out[user] = map[string]int{}
		}
		out[user][command]++
	}
	return out, nil
}

// User is whom the cluster's processes run as to HDFS, its superuser.
const User = "root"

// JMX reads a bean of a daemon into v.
func (c *Cluster) JMX(ctx context.Context, d *Daemon, bean string, v any) error {
	u := "http://" + address(d.HTTP) + "/jmx?qry=" + url.QueryEscape(bean)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct{ Beans []json.RawMessage }
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %w: %.200s", u, err, b)
	}
	if len(answer.Beans) == 0 {
		return fmt.Errorf("%s knows no %s yet", d.Name, bean)
	}
	return json.Unmarshal(answer.Beans[0], v)
}
