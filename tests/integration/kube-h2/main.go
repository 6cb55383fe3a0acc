// SPDX-License-Identifier: Apache-2.0

// kube-h2 CERT KEY CA BACKEND: HTTP/2 in front of kube_api.py, by Go's own server, which is that of Kubernetes' API server, too. Prints its
// address; each line on stdin is a command: "connections" (prints how many there have been, and how many requests came by each protocol),
// "goaway" (tells all clients to go elsewhere, as --goaway-chance does), "freeze" (answers nothing any more on the connections there are).
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
)

// A connection that can be made to say nothing any more, as one whose other end is unplugged.
type frozen struct {
	net.Conn
	stop chan struct{}
	once sync.Once
}

func (c *frozen) Write(b []byte) (int, error) {
	select {
	case <-c.stop:
		return len(b), nil
	default:
		return c.Conn.Write(b)
	}
}

type listener struct {
	net.Listener
	mutex sync.Mutex
	conns []*frozen
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	f := &frozen{Conn: c, stop: make(chan struct{})}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.conns = append(l.conns, f)
	return f, nil
}

func (l *listener) freeze() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	for _, c := range l.conns {
		c.once.Do(func() { close(c.stop) })
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	backend, err := url.Parse(os.Args[4])
	must(err)
	pem, err := os.ReadFile(os.Args[3])
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(backend) },
		FlushInterval: -1,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}},
		ErrorLog:      log.New(os.Stderr, "", 0),
	}
	var one, two atomic.Int64
	var goaway atomic.Bool
	server := &http.Server{ErrorLog: proxy.ErrorLog, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 {
			two.Add(1)
		} else {
			one.Add(1)
		}
		// kubernetes/apiserver: pkg/server/filters/goaway.go
		if goaway.Swap(false) {
			w.Header().Set("Connection", "close")
		}
		proxy.ServeHTTP(w, r)
	})}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	l := &listener{Listener: plain}
	go func() { must(server.ServeTLS(l, os.Args[1], os.Args[2])) }()
	fmt.Printf("https://%s\n", plain.Addr())

	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch lines.Text() {
		case "connections":
			l.mutex.Lock()
			fmt.Println(len(l.conns), one.Load(), two.Load())
			l.mutex.Unlock()
		case "goaway":
			goaway.Store(true)
			fmt.Println("done")
		case "freeze":
			l.freeze()
			fmt.Println("done")
		}
	}
}
