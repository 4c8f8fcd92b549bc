package main

import (
	"context"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/ec2"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/hook"
)

// elasticIP is the Elastic IP address of a node that runs.
type elasticIP struct {
	keep    ec2.Elastic
	trouble atomic.Pointer[string] // why it does not lead here although this node is master
}

// newElastic learns how to reach EC2, and where the address is to lead to. A
// machine that can not tell is a mistake that shows now, not at a failover.
func (d *daemon) newElastic(ctx context.Context) error {
	c := d.cfg.ElasticIP
	if c.AllocationID == "" {
		return nil
	}
	client, err := ec2.Open(ctx, ec2.Options{Region: c.Region, Endpoint: c.Endpoint, Profile: c.Profile})
	if err != nil {
		return err
	}
	t := ec2.Target{Instance: c.InstanceID, Interface: c.InterfaceID, PrivateIP: c.PrivateIP}
	if t.Instance == "" && t.Interface == "" {
		if t.Instance, err = client.Self(ctx); err != nil {
			return err
		}
	}
	d.elastic = &elasticIP{keep: ec2.Elastic{Client: client, Allocation: c.AllocationID, Target: t, Release: c.Release}}
	d.service = elasticService{d.service, d.elastic}
	return nil
}

// keepElastic follows the mastership until ctx ends.
func (d *daemon) keepElastic(ctx context.Context, node *ha.Node) {
	e := d.elastic
	e.keep.Serving = func() bool { return node.Status().Serving(node.Now()) }
	e.keep.Said = func(a ec2.Association, err error) {
		if err == nil {
			e.trouble.Store(nil)
			d.log.Info("the Elastic IP address leads here", zap.String("address", a.PublicIP), zap.Stringer("target", a.Target))
			return
		}
		why := "ELASTIC_IP: " + err.Error()
		e.trouble.Store(&why)
		d.log.Warn("the Elastic IP address does not lead here; trying again", zap.String("allocation", e.keep.Allocation), zap.Error(err))
		if d.watch != nil {
			d.watch.Tell(hook.OnAddressFailed, why)
		}
	}
	e.keep.Keep(ctx)
}

// elasticService shows of a service that the address does not lead to it.
type elasticService struct {
	ha.Service
	elastic *elasticIP
}

// Info implements ha.Service.
func (s elasticService) Info() ha.ServiceInfo {
	i := s.Service.Info()
	if t := s.elastic.trouble.Load(); t != nil && i.Detail == "" && i.Phase != "idle" {
		i.Detail = *t
	}
	return i
}
