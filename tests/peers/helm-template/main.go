// SPDX-License-Identifier: Apache-2.0

// Renders a chart with Helm's own engine, as "helm template" does: helm-template CHART VALUES.yaml [--crds]
package main

import (
	"fmt"
	"os"
	"sort"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	chart, err := loader.LoadDir(os.Args[1])
	check(err)
	check(chart.Validate())
	given, err := chartutil.ReadValuesFile(os.Args[2])
	check(err)
	release := chartutil.ReleaseOptions{Name: "peerpods", Namespace: "confidential-containers-system", Revision: 1, IsInstall: true}
	values, err := chartutil.ToRenderValues(chart, given, release, nil)
	check(err)
	rendered, err := engine.Engine{Strict: true}.Render(chart, values)
	check(err)
	if len(os.Args) > 3 {
		for _, crd := range chart.CRDObjects() {
			fmt.Printf("---\n%s\n", strings.TrimSpace(string(crd.File.Data)))
		}
	}
	var names []string
	for name := range rendered {
		if strings.HasSuffix(name, ".yaml") && strings.TrimSpace(rendered[name]) != "" {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Printf("---\n# Source: %s\n%s\n", name, strings.TrimSpace(rendered[name]))
	}
}
