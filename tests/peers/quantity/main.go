// SPDX-License-Identifier: Apache-2.0

// What Kubernetes' own parser makes of quantities: one a line on standard input; for each a line with "error", or with the value in
// units of 10^-9, rounded up, and the value rounded up to a whole number.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"

	"gopkg.in/inf.v0"
	"k8s.io/apimachinery/pkg/api/resource"
)

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for in.Scan() {
		text, err := strconv.Unquote(in.Text())
		if err != nil {
			panic(err)
		}
		q, err := resource.ParseQuantity(text)
		if err != nil {
			fmt.Fprintln(out, "error")
			continue
		}
		nano := new(inf.Dec).Round(q.AsDec(), 9, inf.RoundUp)
		whole := new(inf.Dec).Round(q.AsDec(), 0, inf.RoundUp)
		nano.SetScale(0)
		fmt.Fprintln(out, nano, whole)
	}
}
