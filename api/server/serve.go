package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// limits of one connection. A slow route lifts read and write for its own
// request.
type limits struct {
	header, read, write, idle time.Duration
	grace                     time.Duration // for requests under way once the server stops
}

func defaultLimits() limits {
	return limits{
		header: 5 * time.Second, read: 30 * time.Second, write: 30 * time.Second, idle: 2 * time.Minute,
		grace: 3 * time.Second,
	}
}

const maxHeaderBytes = 32 << 10

// Listen opens the address for Serve. Its errors name the address and say what
// to do.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	return listen(ctx, "server.listen", addr)
}

// ListenAgent opens the address for ServeAgent, as Listen does.
func ListenAgent(ctx context.Context, addr string) (net.Listener, error) {
	return listen(ctx, "server.agentListen", addr)
}

func listen(ctx context.Context, key, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err == nil {
		return ln, nil
	}
	_, port, _ := net.SplitHostPort(addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: the port is in use, perhaps by another Understudy; see who has it with: ss -ltnp 'sport = :%s', then stop that or set %s to another port: %w", addr, port, key, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listen on %s: not allowed; set %s to a port above 1023 or give the process CAP_NET_BIND_SERVICE: %w", addr, key, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen on %s: this machine does not have that address; set %s to one it has, or to :%s for all: %w", addr, key, port, err)
	}
	return nil, fmt.Errorf("listen on %s: %w; %s is host:port or :port", addr, err, key)
}

// Serve answers on the listener until ctx ends, then closes the listener at
// once, lets requests under way finish for up to 3 s, and returns when
// everything it started has ended. With tlsConfig nil it speaks plain HTTP.
// It returns nil after an orderly stop. The listener is closed in any case.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, tlsConfig *tls.Config, logger *zap.Logger) error {
	return serve(ctx, ln, h, tlsConfig, logger, defaultLimits())
}

func serve(ctx context.Context, ln net.Listener, h http.Handler, tlsConfig *tls.Config, logger *zap.Logger, lim limits) error {
	if logger == nil {
		logger = zap.NewNop()
	}
	srv := &http.Server{
		Handler:           h,
		TLSConfig:         tlsConfig,
		ReadHeaderTimeout: lim.header,
		ReadTimeout:       lim.read,
		WriteTimeout:      lim.write,
		IdleTimeout:       lim.idle,
		MaxHeaderBytes:    maxHeaderBytes,
		// What clients do wrong (port scans, handshakes given up) is not news.
		ErrorLog: log.New(debugWriter{logger}, "", 0),
	}
	// Streams have no end of their own: they end as soon as the server stops.
	streams, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	srv.RegisterOnShutdown(endStreams)
	srv.BaseContext = func(net.Listener) context.Context {
		return context.WithValue(context.WithoutCancel(ctx), streamsKey{}, streams)
	}
	served := make(chan error, 1)
	go func() {
		if tlsConfig != nil {
			served <- srv.ServeTLS(ln, "", "")
		} else {
			served <- srv.Serve(ln)
		}
	}()
	select {
	case err := <-served:
		_ = srv.Close()
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), lim.grace)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		logger.Debug("requests were cut off at the end", zap.Error(err))
		_ = srv.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	}
	return nil
}

type debugWriter struct{ log *zap.Logger }

func (w debugWriter) Write(p []byte) (int, error) {
	w.log.Debug("http", zap.ByteString("message", p))
	return len(p), nil
}
