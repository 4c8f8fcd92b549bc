package ec2

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
)

// Target is where an Elastic IP address leads to: an instance, or one of its
// network interfaces.
type Target struct {
	Instance  string // i-…
	Interface string // eni-…; then Instance means nothing
	PrivateIP string // of several on the interface; empty: the primary one
}

func (t Target) String() string {
	if t.Interface != "" {
		return t.Interface
	}
	return t.Instance
}

// Association is what an address is described to lead to; of no ID: to nothing.
type Association struct {
	ID       string // eipassoc-…
	PublicIP string
	Target
}

// leads reports whether the address leads to t.
func (a Association) leads(t Target) bool {
	switch {
	case a.ID == "":
		return false
	case t.PrivateIP != "" && a.PrivateIP != t.PrivateIP:
		return false
	case t.Interface != "":
		return a.Interface == t.Interface
	}
	return a.Instance == t.Instance
}

// Lookup describes where an address (eipalloc-…) leads to.
func (c *Client) Lookup(ctx context.Context, allocation string) (Association, error) {
	out, err := c.api.addresses(ctx, &sdk.DescribeAddressesInput{AllocationIds: []string{allocation}})
	if err != nil {
		return Association{}, fmt.Errorf("DescribeAddresses %s: %w", allocation, plain(err))
	}
	for _, a := range out.Addresses {
		if aws.ToString(a.AllocationId) == allocation {
			return Association{
				ID: aws.ToString(a.AssociationId), PublicIP: aws.ToString(a.PublicIp),
				Target: Target{
					Instance: aws.ToString(a.InstanceId), Interface: aws.ToString(a.NetworkInterfaceId),
					PrivateIP: aws.ToString(a.PrivateIpAddress),
				},
			}, nil
		}
	}
	return Association{}, fmt.Errorf("DescribeAddresses %s: the answer does not speak of it", allocation)
}

// Associate makes an address lead to t, whomever it led to before, and returns
// once it is described so.
func (c *Client) Associate(ctx context.Context, allocation string, t Target) (Association, error) {
	in := &sdk.AssociateAddressInput{AllocationId: &allocation, AllowReassociation: aws.Bool(true)}
	if t.Interface != "" {
		in.NetworkInterfaceId = &t.Interface
	} else {
		in.InstanceId = &t.Instance
	}
	if t.PrivateIP != "" {
		in.PrivateIpAddress = &t.PrivateIP
	}
	out, err := c.api.associate(ctx, in)
	if err != nil {
		return Association{}, fmt.Errorf("AssociateAddress %s: %w", allocation, plain(err))
	}
	a, err := c.Lookup(ctx, allocation)
	if err != nil {
		return Association{ID: aws.ToString(out.AssociationId), Target: t}, err
	}
	if !a.leads(t) {
		err = fmt.Errorf("%s is described to lead to %s, not to %s", allocation, a.Target, t)
	}
	return a, err
}

// Disassociate ends an association. One that another node has made since is
// another one, and stays.
func (c *Client) Disassociate(ctx context.Context, a Association) error {
	_, err := c.api.disassociate(ctx, &sdk.DisassociateAddressInput{AssociationId: &a.ID})
	if err != nil && !isCode(err, "InvalidAssociationID.NotFound") {
		return fmt.Errorf("DisassociateAddress %s: %w", a.ID, plain(err))
	}
	return nil
}
