package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"github.com/understudy-ha/understudy/persistence"
)

const (
	dialTimeout = time.Second
	tlsTimeout  = 2 * time.Second
	// replyTimeout bounds what the caller's context does not.
	replyTimeout = 30 * time.Second
	// maxConns bounds the connections of one kind. It exceeds what races of
	// store verify need, which tell nothing when their writers queue up here.
	maxConns = 64
	// Retries of what may be sent twice without harm.
	objectAttempts = 3
	objectBackoff  = 300 * time.Millisecond
	closeTimeout   = time.Second
	anyRegion      = "us-east-1"
)

// link is what the handles of one location and of its scratch areas share: a
// bucket, credentials, connections.
type link struct {
	bucket    string
	region    string
	endpoint  *url.URL // nil: AWS
	express   bool     // a directory bucket of S3 Express One Zone
	partSize  int64
	sse       string
	kmsKey    *string
	bucketKey *bool

	// The register has connections of its own, lest a heartbeat wait behind an
	// artifact, and nothing there is ever sent twice.
	register *s3.Client
	objects  *s3.Client // what is idempotent: GET, LIST, HEAD, DELETE
	writes   *s3.Client // PUT and POST of objects
	halves   *s3.Client // PUTs that stop half-way, see Overlap

	keys  *keyring
	wires []*wire
	clock *skew

	ctx    context.Context //nolint:containedctx // ends what goes on in the background
	cancel context.CancelFunc
	wait   sync.WaitGroup // for that

	mu      sync.Mutex
	closing bool // nothing more begins in the background
}

func newLink(bucket string, opts Options) (*link, error) {
	l := &link{bucket: bucket, sse: opts.SSE, express: strings.HasSuffix(bucket, "--x-s3"), partSize: opts.PartSize}
	if l.partSize == 0 {
		l.partSize = defaultPart
	}
	if opts.KMSKeyID != "" {
		l.kmsKey = &opts.KMSKeyID
	}
	if strings.HasPrefix(opts.SSE, "aws:kms") {
		l.bucketKey = aws.Bool(true) // or each write of the register is a request to KMS
	}
	if opts.now == nil {
		opts.now = time.Now
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	cfg, err := load(l.ctx, opts)
	if err != nil {
		l.cancel()
		return nil, err
	}
	roots, err := authorities(opts.CAFile)
	if err != nil {
		l.cancel()
		return nil, err
	}
	l.clock = &skew{now: opts.now}
	source := opts.Credentials
	if source == nil {
		source = aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) { return fromChain(ctx, opts) })
	}
	l.keys = &keyring{source: source, now: opts.now, run: l.background}
	beat, bulk := l.wire(roots, opts.Count), l.wire(roots, opts.Count)
	client := func(w *wire, r aws.Retryer, more ...func(*s3.Options)) *s3.Client {
		return s3.NewFromConfig(cfg, append([]func(*s3.Options){func(o *s3.Options) { l.configure(o, opts, w, r) }}, more...)...)
	}
	l.register = client(beat, aws.NopRetryer{})
	l.halves = client(bulk, aws.NopRetryer{}, func(o *s3.Options) {
		o.HTTPClient = &http.Client{Transport: halver{bulk}, CheckRedirect: noRedirect}
	})
	l.writes = client(bulk, aws.NopRetryer{})
	l.objects = client(bulk, retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts, o.MaxBackoff = objectAttempts, objectBackoff
	}))
	o := l.register.Options()
	l.region = o.Region
	if o.BaseEndpoint != nil {
		if l.endpoint, err = parseEndpoint(*o.BaseEndpoint); err != nil {
			l.cancel()
			return nil, err
		}
	}
	return l, nil
}

// load reads the environment and the shared configuration files of AWS.
func load(ctx context.Context, opts Options) (aws.Config, error) {
	var with []func(*config.LoadOptions) error
	if opts.Profile != "" {
		with = append(with, config.WithSharedConfigProfile(opts.Profile))
	}
	if opts.Region != "" {
		with = append(with, config.WithRegion(opts.Region))
	}
	with = append(with, config.WithDefaultRegion(anyRegion), config.WithLogger(logging.Nop{}))
	cfg, err := config.LoadDefaultConfig(ctx, with...)
	if err != nil {
		return cfg, fmt.Errorf("%w: the AWS configuration can not be used: %w; correct store.s3.profile or the files in ~/.aws",
			persistence.Unsupported, err)
	}
	return cfg, nil
}

// configure makes a client out of what the environment says (in o already) and
// what opts say.
func (l *link) configure(o *s3.Options, opts Options, w *wire, r aws.Retryer) {
	o.HTTPClient = &http.Client{Transport: w, CheckRedirect: noRedirect}
	o.Retryer, o.RetryMaxAttempts = r, 0
	o.Credentials = l.keys
	// Trailers with checksums are refused by many other services.
	o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	o.DisableLogOutputChecksumValidationSkipped = true
	o.DisableMultiRegionAccessPoints = true
	o.ClientLogMode, o.Logger = 0, logging.Nop{} // would show what was signed
	if opts.Endpoint != "" {
		o.BaseEndpoint = &opts.Endpoint
	}
	o.UsePathStyle = o.BaseEndpoint != nil
	if opts.PathStyle != nil {
		o.UsePathStyle = *opts.PathStyle
	}
}

// noRedirect: what was signed for one host is not for another.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func parseEndpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		return nil, fmt.Errorf("%w: the endpoint is not a URL of a server; write e.g. https://minio.example.org:9000", persistence.Unsupported)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%w: the endpoint holds more than a server; credentials do not belong there, use the AWS ones (AWS_ACCESS_KEY_ID, a profile, a role)",
			persistence.Unsupported)
	}
	return u, nil
}

// authorities reads the certificates to trust; nil means the system's.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		file = os.Getenv("AWS_CA_BUNDLE")
	}
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: certificate authorities: %w; correct store.s3.caFile", persistence.Unsupported, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%w: certificate authorities: %s holds no certificate in PEM; correct store.s3.caFile", persistence.Unsupported, file)
	}
	return pool, nil
}

// wire makes connections of one kind.
func (l *link) wire(roots *x509.CertPool, count func(string)) *wire {
	if count == nil {
		count = func(string) {}
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // of HTTP/2 one stuck connection would hold up every request
	w := &wire{count: count, clock: l.clock, base: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:   tlsTimeout,
		ResponseHeaderTimeout: replyTimeout,
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConns:          maxConns,
		MaxIdleConnsPerHost:   maxConns,
		MaxConnsPerHost:       maxConns,
		DisableCompression:    true,
		Protocols:             protocols,
	}}
	l.wires = append(l.wires, w)
	return w
}

// background runs f beside the callers until it ends or the link is shut, and
// reports whether it could.
func (l *link) background(f func(ctx context.Context)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return false
	}
	l.wait.Go(func() { f(l.ctx) })
	return true
}

// behind runs f and waits for it while ctx lasts.
func (l *link) behind(ctx context.Context, f func(ctx context.Context)) {
	done := make(chan struct{})
	if !l.background(func(ctx context.Context) { defer close(done); f(ctx) }) {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// shut gives what goes on in the background a moment, then ends it.
func (l *link) shut() {
	l.mu.Lock()
	l.closing = true
	l.mu.Unlock()
	enough := time.AfterFunc(closeTimeout, l.cancel)
	l.wait.Wait()
	enough.Stop()
	l.cancel()
	for _, w := range l.wires {
		w.base.CloseIdleConnections()
	}
}

// belongsTo reports whether the endpoint is a host of that domain.
func belongsTo(endpoint *url.URL, domain string) bool {
	if endpoint == nil {
		return false
	}
	host := strings.ToLower(endpoint.Hostname())
	return host == domain || strings.HasSuffix(host, "."+domain)
}

// knownBad says why a service can not keep the contract, whatever it answers.
func knownBad(endpoint *url.URL) string {
	const remedy = "; use another service (see docs) or a shared directory"
	switch {
	case belongsTo(endpoint, "backblazeb2.com"):
		return "Backblaze B2 has no conditional writes" + remedy
	case belongsTo(endpoint, "storage.googleapis.com"):
		return "the XML API of Google Cloud Storage ignores conditions on the ETag" + remedy
	}
	return ""
}

// warnings are what an operator should know about the way to the store.
func (l *link) warnings() []string {
	var w []string
	if l.endpoint != nil && l.endpoint.Scheme == "http" && !isLoopback(l.endpoint.Hostname()) {
		w = append(w, fmt.Sprintf("%s is not encrypted: who is on the way can read and change what is stored; use https", l.endpoint.Host))
	}
	if why := l.clock.complaint(); why != "" {
		w = append(w, why)
	}
	return w
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
