// SPDX-License-Identifier: Apache-2.0

// The independent peer for our ttrpc tests: containerd's own implementation as a server, as a client, and as the source of
// golden bytes.
//
//	ttrpc-go server SOCKET        serve until standard input ends
//	ttrpc-go client SOCKET CASE   run one case against a server; exit status 0 if it went as it should
//	ttrpc-go golden DIRECTORY     write what client and server put on the wire, a file for each frame
//
// Messages are protobuf's well-known wrappers, so that no generated code is needed: a StringValue is on the wire what any
// message with one string field number 1 is.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const service = "peerpod.test.Peer"

var nCancelled atomic.Int64

// The methods that both sides' servers have; tests/integration/ttrpc-go/ttrpc-go-test.c has the same in C.
var methods = map[string]ttrpc.Method{
	// the bytes that came
	"Echo": func(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
		var req wrapperspb.BytesValue
		if err := unmarshal(&req); err != nil {
			return nil, err
		}
		return &req, nil
	},
	// "CODE TEXT" as an error
	"Fail": func(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
		var req wrapperspb.StringValue
		if err := unmarshal(&req); err != nil {
			return nil, err
		}
		number, text, _ := strings.Cut(req.Value, " ")
		code, err := strconv.Atoi(number)
		if err != nil {
			return nil, err
		}
		return nil, status.Error(codes.Code(code), text)
	},
	// the value of a metadata key
	"Metadata": func(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
		var req wrapperspb.StringValue
		if err := unmarshal(&req); err != nil {
			return nil, err
		}
		value, ok := ttrpc.GetMetadataValue(ctx, req.Value)
		if !ok {
			return nil, status.Error(codes.NotFound, "no such key")
		}
		return wrapperspb.String(value), nil
	},
	// no answer before deadline or disconnect
	"Hang": func(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
		<-ctx.Done()
		nCancelled.Add(1)
		return nil, ctx.Err()
	},
	// how many Hang calls have ended
	"CountCancelled": func(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
		return wrapperspb.Int64(nCancelled.Load()), nil
	},
}

func runServer(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	s, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	s.Register(service, methods)

	go func() {
		io.Copy(io.Discard, os.Stdin)
		s.Close()
	}()
	fmt.Println("ready")
	if err := s.Serve(context.Background(), l); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
		return err
	}
	return nil
}

// What a call is expected to end with, besides nil.
func expect(err error, code codes.Code, text string) error {
	st, ok := status.FromError(err)
	if !ok || st.Code() != code || st.Message() != text {
		return fmt.Errorf("expected code %d %q, got %v", code, text, err)
	}
	return nil
}

func echo(ctx context.Context, c *ttrpc.Client, size int, fill byte) error {
	data := bytes.Repeat([]byte{fill}, size)
	var resp wrapperspb.BytesValue
	if err := c.Call(ctx, service, "Echo", wrapperspb.Bytes(data), &resp); err != nil {
		return fmt.Errorf("echo of %d bytes: %w", size, err)
	}
	if !bytes.Equal(resp.Value, data) {
		return fmt.Errorf("echo of %d bytes came back as %d others", size, len(resp.Value))
	}
	return nil
}

var cases = map[string]func(ctx context.Context, c *ttrpc.Client) error{
	"echo": func(ctx context.Context, c *ttrpc.Client) error {
		for _, size := range []int{0, 1, 100, 16383, 16384, 65536, 1 << 20, 4<<20 - 64} {
			if err := echo(ctx, c, size, 'e'); err != nil {
				return err
			}
		}
		return nil
	},
	"concurrent": func(ctx context.Context, c *ttrpc.Client) error {
		var wg sync.WaitGroup
		errs := make(chan error, 200)
		for i := 0; i < 200; i++ {
			wg.Add(1)
			go func() {
				defer wg.Done()
				errs <- echo(ctx, c, 1+i*97, byte(i))
			}()
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	},
	"big-concurrent": func(ctx context.Context, c *ttrpc.Client) error {
		var wg sync.WaitGroup
		errs := make(chan error, 24)
		for i := 0; i < 24; i++ {
			wg.Add(1)
			go func() {
				defer wg.Done()
				errs <- echo(ctx, c, 1<<20, byte(i))
			}()
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	},
	"unknown-service": func(ctx context.Context, c *ttrpc.Client) error {
		err := c.Call(ctx, "no.Such", "Echo", &emptypb.Empty{}, &emptypb.Empty{})
		return expect(err, codes.Unimplemented, "service no.Such")
	},
	"unknown-method": func(ctx context.Context, c *ttrpc.Client) error {
		err := c.Call(ctx, service, "NoSuch", &emptypb.Empty{}, &emptypb.Empty{})
		return expect(err, codes.Unimplemented, "method NoSuch")
	},
	"error-status": func(ctx context.Context, c *ttrpc.Client) error {
		err := c.Call(ctx, service, "Fail", wrapperspb.String("9 not in this state: \u00e4\u20ac"), &emptypb.Empty{})
		return expect(err, codes.FailedPrecondition, "not in this state: \u00e4\u20ac")
	},
	"metadata": func(ctx context.Context, c *ttrpc.Client) error {
		md := ttrpc.MD{}
		md.Set("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		md.Append("Repeated", "first", "second")
		ctx = ttrpc.WithMetadata(ctx, md)
		for key, want := range map[string]string{"traceparent": md["traceparent"][0], "repeated": "first"} {
			var resp wrapperspb.StringValue
			if err := c.Call(ctx, service, "Metadata", wrapperspb.String(key), &resp); err != nil {
				return err
			}
			if resp.Value != want {
				return fmt.Errorf("key %s came as %q", key, resp.Value)
			}
		}
		err := c.Call(ctx, service, "Metadata", wrapperspb.String("absent"), &emptypb.Empty{})
		return expect(err, codes.NotFound, "no such key")
	},
	// The server must answer, since the client's own clock is not asked: it gets the deadline only as a number.
	"server-deadline": func(ctx context.Context, c *ttrpc.Client) error {
		err := c.Call(withTimeoutNano(ctx, 50e6), service, "Hang", &emptypb.Empty{}, &emptypb.Empty{})
		return expect(err, codes.DeadlineExceeded, "context deadline exceeded")
	},
	"expired-deadline": func(ctx context.Context, c *ttrpc.Client) error {
		err := c.Call(withTimeoutNano(ctx, -1), service, "Hang", &emptypb.Empty{}, &emptypb.Empty{})
		return expect(err, codes.DeadlineExceeded, "context deadline exceeded")
	},
	"client-deadline": func(ctx context.Context, c *ttrpc.Client) error {
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		err := c.Call(short, service, "Hang", &emptypb.Empty{}, &emptypb.Empty{})
		if st, _ := status.FromError(err); !errors.Is(err, context.DeadlineExceeded) && st.Code() != codes.DeadlineExceeded {
			return fmt.Errorf("expected the deadline, got %v", err)
		}
		return echo(ctx, c, 1, 'x') // the connection lives
	},
	"oversize-request": func(ctx context.Context, c *ttrpc.Client) error {
		err := c.Call(ctx, service, "Echo", wrapperspb.Bytes(make([]byte, 4<<20)), &emptypb.Empty{})
		if st, _ := status.FromError(err); st.Code() != codes.ResourceExhausted {
			return fmt.Errorf("expected RESOURCE_EXHAUSTED, got %v", err)
		}
		return echo(ctx, c, 1, 'x')
	},
	// A call that is cut off by the end of its connection: the C side counts that it was cancelled.
	"disconnect": func(ctx context.Context, c *ttrpc.Client) error {
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		go c.Call(withTimeoutNano(ctx, 0), service, "Hang", &emptypb.Empty{}, &emptypb.Empty{})
		<-short.Done()
		return nil
	},
}

type timeoutKey struct{}

func withTimeoutNano(ctx context.Context, nano int64) context.Context {
	return context.WithValue(ctx, timeoutKey{}, nano)
}

// Lets a case say what goes in timeout_nano, whatever the context's deadline is.
func setTimeout(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, info *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	if nano, ok := ctx.Value(timeoutKey{}).(int64); ok {
		req.TimeoutNano = nano
	}
	return invoke(ctx, req, resp)
}

func runClient(path, name string) error {
	f, ok := cases[name]
	if !ok {
		return fmt.Errorf("no case %q", name)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	c := ttrpc.NewClient(conn, ttrpc.WithUnaryClientInterceptor(setTimeout))
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	return f(withTimeoutNano(ctx, 0), c)
}

// A connection that keeps a copy of what is written to it.
type recorder struct {
	net.Conn
	mu      sync.Mutex
	written bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.written.Write(p)
	r.mu.Unlock()
	return r.Conn.Write(p)
}

func socketPair() (net.Conn, net.Conn, error) {
	l, err := net.Listen("unix", "")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	a, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	b, err := l.Accept()
	return a, b, err
}

type oneListener struct {
	net.Listener
	conn chan net.Conn
}

func (l *oneListener) Accept() (net.Conn, error) { return <-l.conn, nil }
func (l *oneListener) Close() error              { return nil }

// Runs a server on one connection, lets the caller talk to it, returns what it wrote.
func recordServer(talk func(conn net.Conn) error) ([]byte, error) {
	a, b, err := socketPair()
	if err != nil {
		return nil, err
	}
	r := &recorder{Conn: b}
	s, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	s.Register(service, methods)
	l := &oneListener{conn: make(chan net.Conn, 1)}
	l.conn <- r
	go s.Serve(context.Background(), l)
	defer s.Close()

	if err := talk(a); err != nil {
		return nil, err
	}
	a.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]byte(nil), r.written.Bytes()...), nil
}

// Sends raw bytes and reads as many frames as are to be recorded.
func raw(request []byte, frames int) func(conn net.Conn) error {
	return func(conn net.Conn) error {
		go conn.Write(request)
		for ; frames > 0; frames-- {
			header := make([]byte, 10)
			if _, err := io.ReadFull(conn, header); err != nil {
				return err
			}
			n := int64(header[0])<<24 | int64(header[1])<<16 | int64(header[2])<<8 | int64(header[3])
			if _, err := io.CopyN(io.Discard, conn, n); err != nil {
				return err
			}
		}
		return nil
	}
}

func recordClient(call func(c *ttrpc.Client) error) (request, response []byte, err error) {
	response, err = recordServer(func(conn net.Conn) error {
		r := &recorder{Conn: conn}
		c := ttrpc.NewClient(r, ttrpc.WithUnaryClientInterceptor(setTimeout))
		defer c.Close()
		call(c) // errors are answers too
		request = r.written.Bytes()
		return nil
	})
	return
}

func frame(size, id uint32, kind, flags byte, data []byte) []byte {
	h := []byte{byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size),
		byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id), kind, flags}
	return append(h, data...)
}

func runGolden(dir string) error {
	put := func(name string, data []byte) error {
		return os.WriteFile(filepath.Join(dir, name), data, 0644)
	}

	md := ttrpc.MD{}
	md.Set("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	background := withTimeoutNano(context.Background(), 0)
	calls := []struct {
		name string
		ctx  context.Context
		serv string
		meth string
		req  interface{}
	}{
		{"echo", background, service, "Echo", wrapperspb.Bytes([]byte("hello"))},
		{"empty", background, service, "Echo", wrapperspb.Bytes(nil)},
		{"error-status", background, service, "Fail", wrapperspb.String("5 sandbox 'x' not found")},
		{"timeout", withTimeoutNano(background, 5e9), service, "Echo", wrapperspb.Bytes([]byte("t"))},
		{"expired", withTimeoutNano(background, -1), service, "Hang", &emptypb.Empty{}},
		{"metadata", ttrpc.WithMetadata(background, md), service, "Metadata", wrapperspb.String("traceparent")},
		{"unknown-service", background, "no.Such", "Echo", &emptypb.Empty{}},
		{"unknown-method", background, service, "NoSuch", &emptypb.Empty{}},
		{"start-vm", background, "hypervisor.Hypervisor", "StartVM", wrapperspb.String("sandbox-1")},
	}
	for _, call := range calls {
		request, response, err := recordClient(func(c *ttrpc.Client) error {
			return c.Call(call.ctx, call.serv, call.meth, call.req, &emptypb.Empty{})
		})
		if err != nil {
			return err
		}
		if err := put("request-"+call.name, request); err != nil {
			return err
		}
		if err := put("response-"+call.name, response); err != nil {
			return err
		}
	}

	good, err := os.ReadFile(filepath.Join(dir, "request-echo"))
	if err != nil {
		return err
	}
	raws := []struct {
		name    string
		frames  int
		request []byte
	}{
		{"even-id", 1, frame(0, 2, 1, 0, nil)},
		{"bad-request", 1, frame(3, 1, 1, 0, []byte{0x0a, 0x05, 'x'})},
		{"bad-payload", 1, append(frame(uint32(len(service)+13), 1, 1, 0, append([]byte{0x0a, byte(len(service))}, service...)),
			0x12, 4, 'E', 'c', 'h', 'o', 0x1a, 3, 0x0a, 0x05, 'x')},
		{"oversize", 2, append(frame(4<<20+1, 7, 1, 0, make([]byte, 4<<20+1)), good...)},
	}
	for _, r := range raws {
		response, err := recordServer(raw(r.request, r.frames))
		if err != nil {
			return err
		}
		if r.name != "oversize" { // 4 MiB of zeroes, made in the tests
			if err := put("request-"+r.name, r.request); err != nil {
				return err
			}
		}
		// Go's protobuf puts a blank or a no-break space into its error texts, by the build (google.golang.org/protobuf:
		// internal/errors), so that nobody compares them.
		if bytes.Contains(response, []byte("wire-format")) {
			continue
		}
		if err := put("response-"+r.name, response); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	logrus.SetOutput(io.Discard)

	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "server":
		err = runServer(os.Args[2])
	case len(os.Args) == 4 && os.Args[1] == "client":
		err = runClient(os.Args[2], os.Args[3])
	case len(os.Args) == 3 && os.Args[1] == "golden":
		err = runGolden(os.Args[2])
	default:
		err = errors.New("usage: ttrpc-go server SOCKET | client SOCKET CASE | golden DIRECTORY")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ttrpc-go:", err)
		os.Exit(1)
	}
}
