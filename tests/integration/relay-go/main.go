// SPDX-License-Identifier: Apache-2.0

// The upstream halves of the data plane in their own language: Go's crypto/tls and containerd's ttrpc, set up as
// cloud-api-adaptor sets them up (src/cloud-api-adaptor/pkg/util/tlsutil, pkg/adaptor/proxy, pkg/forwarder).
//
//	relay-go forwarder DIR         serve on the listening socket that is descriptor 3, as an upstream image would
//	relay-go proxy DIR PORT NAME   call through a forwarder as an upstream worker would; exit status 0 if it went well
//
// DIR holds server-ca.crt, server.key, client.crt and client.key.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func config(dir, cert, key, trust string) *tls.Config {
	pair, err := tls.LoadX509KeyPair(dir+"/"+cert, dir+"/"+key)
	fatal(err)
	pem, err := os.ReadFile(dir + "/" + trust)
	fatal(err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		fatal(fmt.Errorf("no certificate in %s", trust))
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		RootCAs:      pool,
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		MinVersion:   tls.VersionTLS12,
	}
}

func forwarder(dir string) {
	inner, err := net.FileListener(os.NewFile(3, "listen"))
	fatal(err)
	server, err := ttrpc.NewServer()
	fatal(err)
	// HealthCheckResponse { status: SERVING } is on the wire what an UInt32Value of 1 is.
	server.Register("grpc.Health", map[string]ttrpc.Method{
		"Check": func(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
			var req wrapperspb.StringValue
			if err := unmarshal(&req); err != nil {
				return nil, err
			}
			return wrapperspb.UInt32(1), nil
		}})
	server.Register("grpc.AgentService", map[string]ttrpc.Method{
		"Echo": func(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
			var req wrapperspb.BytesValue
			if err := unmarshal(&req); err != nil {
				return nil, err
			}
			return &req, nil
		}})
	fatal(server.Serve(context.Background(), tls.NewListener(inner, config(dir, "server-ca.crt", "server.key", "client.crt"))))
}

func proxy(dir, port, name string) {
	c := config(dir, "client.crt", "client.key", "server-ca.crt")
	c.ServerName = name
	conn, err := tls.Dial("tcp", "127.0.0.1:"+port, c)
	fatal(err)
	client := ttrpc.NewClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	var serving wrapperspb.UInt32Value
	fatal(client.Call(ctx, "grpc.Health", "Check", wrapperspb.String(""), &serving))
	if serving.Value != 1 {
		fatal(fmt.Errorf("Check: status %d", serving.Value))
	}

	var wg sync.WaitGroup
	for i := 0; i < 32; i++ {
		wg.Add(1)
		go func(i int) {
			defer wg.Done()
			data := bytes.Repeat([]byte{byte(i)}, 1+i*i*3000)
			var answer wrapperspb.BytesValue
			fatal(client.Call(ctx, "grpc.AgentService", "Echo", wrapperspb.Bytes(data), &answer))
			if !bytes.Equal(answer.Value, data) {
				fatal(fmt.Errorf("Echo of %d bytes came back changed", len(data)))
			}
		}(i)
	}
	wg.Wait()
	fatal(client.Close())
}

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "forwarder":
		forwarder(os.Args[2])
	case len(os.Args) == 5 && os.Args[1] == "proxy":
		proxy(os.Args[2], os.Args[3], os.Args[4])
	default:
		fmt.Fprintln(os.Stderr, "relay-go forwarder DIR | proxy DIR PORT NAME")
		os.Exit(2)
	}
}
