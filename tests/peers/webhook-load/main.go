// SPDX-License-Identifier: Apache-2.0

// Asks an HTTPS server at a steady rate with the client that the API server has, too, and prints the median and the 99th percentile of the
// time until the answer, in microseconds. A request is due at its time whether or not earlier ones have been answered, and its time
// counts from there.
//
// Usage: webhook-load URL CA SERVER-NAME RATE SECONDS [BODY]
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"
)

func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return v
}

func main() {
	url, ca, name := os.Args[1], must(os.ReadFile(os.Args[2])), os.Args[3]
	rate, seconds := must(strconv.Atoi(os.Args[4])), must(strconv.Atoi(os.Args[5]))
	method, body := "GET", []byte(nil)
	if len(os.Args) > 6 {
		method, body = "POST", must(os.ReadFile(os.Args[6]))
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool, ServerName: name},
		MaxIdleConnsPerHost: 16,
		MaxConnsPerHost:     16, // else each pause of a busy machine costs handshakes, which cost the next pause
	}}
	ask := func() {
		r := must(http.NewRequest(method, url, bytes.NewReader(body)))
		r.Header.Set("Content-Type", "application/json")
		answer := must(client.Do(r))
		must(io.Copy(io.Discard, answer.Body))
		answer.Body.Close()
		if answer.StatusCode != 200 {
			must(0, fmt.Errorf("status %s", answer.Status))
		}
	}

	// Connections are made before it counts: the API server keeps its own.
	var group sync.WaitGroup
	for i := 0; i < 16; i++ {
		group.Add(1)
		go func() { defer group.Done(); ask() }()
	}
	group.Wait()

	took := make([]time.Duration, rate*seconds)
	begin := time.Now()
	for i := range took {
		due := begin.Add(time.Duration(i) * time.Second / time.Duration(rate))
		time.Sleep(time.Until(due))
		group.Add(1)
		go func() {
			defer group.Done()
			ask()
			took[i] = time.Since(due)
		}()
	}
	group.Wait()
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	fmt.Println(took[len(took)/2].Microseconds(), took[len(took)*99/100].Microseconds())
}
