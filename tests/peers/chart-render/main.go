// SPDX-License-Identifier: Apache-2.0

// Renders a chart as 'helm template' does, for charts that are their own only part: Go's templates, the functions of sprig that Helm has,
// and Helm's own ones (helm/helm: pkg/engine). Helm itself takes longer to build than all the tests that would use it.
//
// Usage: chart-render CHART NAMESPACE [VALUES-FILE]
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
	"sigs.k8s.io/yaml"
)

type files string

func (f files) Get(name string) string {
	data, _ := os.ReadFile(filepath.Join(string(f), name))
	return string(data)
}

func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return v
}

func load(path string) map[string]any {
	v := map[string]any{}
	must(0, yaml.UnmarshalStrict(must(os.ReadFile(path)), &v))
	return v
}

// What the user gives wins, map by map.
func merge(base, over map[string]any) map[string]any {
	for k, v := range over {
		a, isMap := base[k].(map[string]any)
		b, isMapToo := v.(map[string]any)
		if isMap && isMapToo {
			v = merge(a, b)
		}
		base[k] = v
	}
	return base
}

func functions() template.FuncMap {
	f := sprig.TxtFuncMap()
	delete(f, "env")
	delete(f, "expandenv")
	f["toYaml"] = func(v any) string { return strings.TrimSuffix(string(must(yaml.Marshal(v))), "\n") }
	f["fromYaml"] = func(s string) map[string]any {
		v := map[string]any{}
		must(0, yaml.Unmarshal([]byte(s), &v))
		return v
	}
	f["required"] = func(message string, v any) (any, error) {
		if v == nil || v == "" {
			return nil, errors.New(message)
		}
		return v, nil
	}
	f["fail"] = func(message string) (string, error) { return "", errors.New(message) }
	return f
}

func main() {
	chart := os.Args[1]
	values := load(filepath.Join(chart, "values.yaml"))
	if len(os.Args) > 3 {
		values = merge(values, load(os.Args[3]))
	}
	top := map[string]any{
		"Values":  values,
		"Chart":   load(filepath.Join(chart, "Chart.yaml")),
		"Release": map[string]any{"Name": "peerpods", "Namespace": os.Args[2], "Service": "Helm"},
		"Files":   files(chart),
	}
	names := must(filepath.Glob(filepath.Join(chart, "templates", "*")))
	sort.Strings(names)
	for _, name := range names {
		var out bytes.Buffer
		t := must(template.New(name).Option("missingkey=zero").Funcs(functions()).Parse(string(must(os.ReadFile(name)))))
		must(0, t.Execute(&out, top))
		fmt.Printf("---\n# Source: %s\n%s\n", filepath.Base(name), out.String())
	}
}
