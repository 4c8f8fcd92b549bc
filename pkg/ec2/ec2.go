package ec2

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
)

const (
	dialTimeout = 3 * time.Second
	attempts    = 3 // of one call
	backoff     = time.Second
	replyLimit  = 10 * time.Second
	pollEvery   = 2 * time.Second // of an instance that is stopping
)

// Options say how the service is reached. The zero value takes everything from
// where the AWS tools take it.
type Options struct {
	Region   string // empty: AWS_REGION, the profile's, or that of this instance
	Endpoint string // URL of another endpoint than AWS's own
	Profile  string
	Poll     time.Duration // between two looks at an instance that is stopping; 0: 2 s
}

// Client asks the service. Its methods may be called from any goroutine.
type Client struct {
	api  calls
	meta *imds.Client
	poll time.Duration
}

// calls are what is asked of the service. The SDK's client is named nowhere else:
// as soon as its type can be reached from an interface value, the linker keeps
// all of its several hundred operations, which more than doubles the binary.
type calls struct {
	stop         func(context.Context, *sdk.StopInstancesInput, ...func(*sdk.Options)) (*sdk.StopInstancesOutput, error)
	instances    func(context.Context, *sdk.DescribeInstancesInput, ...func(*sdk.Options)) (*sdk.DescribeInstancesOutput, error)
	associate    func(context.Context, *sdk.AssociateAddressInput, ...func(*sdk.Options)) (*sdk.AssociateAddressOutput, error)
	addresses    func(context.Context, *sdk.DescribeAddressesInput, ...func(*sdk.Options)) (*sdk.DescribeAddressesOutput, error)
	disassociate func(context.Context, *sdk.DisassociateAddressInput, ...func(*sdk.Options)) (*sdk.DisassociateAddressOutput, error)
}

// Open reads the configuration. It asks nobody, except for the region of this
// instance where nothing names one.
func Open(ctx context.Context, o Options) (*Client, error) {
	with := []func(*config.LoadOptions) error{
		config.WithLogger(logging.Nop{}),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(replyLimit).
			WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialTimeout })),
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = attempts, backoff })
		}),
	}
	if o.Profile != "" {
		with = append(with, config.WithSharedConfigProfile(o.Profile))
	}
	if o.Region != "" {
		with = append(with, config.WithRegion(o.Region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, with...)
	if err != nil {
		return nil, fmt.Errorf("the AWS configuration can not be used: %w; correct the profile, or the files in ~/.aws", err)
	}
	c := &Client{meta: imds.NewFromConfig(cfg), poll: o.Poll}
	if c.poll == 0 {
		c.poll = pollEvery
	}
	if cfg.Region == "" {
		r, err := c.meta.GetRegion(ctx, nil)
		if err != nil {
			return nil, fmt.Errorf("no AWS region is set and this machine does not tell its own: %w; set region", err)
		}
		cfg.Region = r.Region
	}
	api := sdk.NewFromConfig(cfg, func(so *sdk.Options) {
		if o.Endpoint != "" {
			so.BaseEndpoint = &o.Endpoint
		}
	})
	c.api = calls{api.StopInstances, api.DescribeInstances, api.AssociateAddress, api.DescribeAddresses, api.DisassociateAddress}
	return c, nil
}

// Self is the id of the instance that this process runs on.
func (c *Client) Self(ctx context.Context) (string, error) {
	d, err := c.meta.GetInstanceIdentityDocument(ctx, nil)
	if err != nil {
		return "", fmt.Errorf("this machine does not tell its instance id: %w; is it an EC2 instance? Set instanceId otherwise", err)
	}
	return d.InstanceID, nil
}

// PowerOff stops an instance, by force, and returns once it is described as
// stopped, or as terminated: until then nothing is known of it.
func (c *Client) PowerOff(ctx context.Context, instance string) (state string, err error) {
	_, err = c.api.stop(ctx, &sdk.StopInstancesInput{InstanceIds: []string{instance}, Force: aws.Bool(true)})
	// What is stopping or gone can not be stopped; what it is, is looked at.
	if err != nil && !isCode(err, "IncorrectInstanceState") {
		return "", fmt.Errorf("StopInstances %s: %w", instance, plain(err))
	}
	for {
		state, err = c.State(ctx, instance)
		if state == string(types.InstanceStateNameStopped) || state == string(types.InstanceStateNameTerminated) {
			return state, nil
		}
		select {
		case <-time.After(c.poll):
		case <-ctx.Done():
			if err != nil {
				return "", err
			}
			return state, fmt.Errorf("%s is described as %s, not as stopped: %w", instance, state, ctx.Err())
		}
	}
}

// State is the state that an instance is described to be in: running, stopped.
func (c *Client) State(ctx context.Context, instance string) (string, error) {
	out, err := c.api.instances(ctx, &sdk.DescribeInstancesInput{InstanceIds: []string{instance}})
	if err != nil {
		return "", fmt.Errorf("DescribeInstances %s: %w", instance, plain(err))
	}
	for _, r := range out.Reservations {
		for _, i := range r.Instances {
			if aws.ToString(i.InstanceId) == instance && i.State != nil {
				return string(i.State.Name), nil
			}
		}
	}
	return "", fmt.Errorf("DescribeInstances %s: the answer does not speak of it", instance)
}

// isCode reports whether the service refused with that code.
func isCode(err error, code string) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == code
}

// plain leaves out what the SDK puts around an answer of the service.
func plain(err error) error {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return err
	}
	remedy := ""
	switch api.ErrorCode() {
	case "UnauthorizedOperation":
		remedy = "; give the credentials of this node that permission"
	case "AuthFailure", "InvalidClientTokenId", "SignatureDoesNotMatch", "RequestExpired":
		remedy = "; check the credentials, and the clock of this machine"
	}
	return fmt.Errorf("%s: %s%s", api.ErrorCode(), api.ErrorMessage(), remedy)
}
