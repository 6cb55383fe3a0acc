// SPDX-License-Identifier: Apache-2.0

// ibm checks bodies of IBM Power Virtual Server's API against the vendor's models: one {"model": NAME, "body": …} a line in, one
// {"error": TEXT} a line out. Keys that a model does not have are errors, and so is what its Validate() says.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/IBM-Cloud/power-go-client/power/models"
	"github.com/go-openapi/strfmt"
)

type validator interface {
	Validate(strfmt.Registry) error
}

// Arrays of the API have no model with a name of their own for each use.
type list[T validator] []T

func (l list[T]) Validate(r strfmt.Registry) error {
	for i, e := range l {
		if err := e.Validate(r); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	return nil
}

func model(name string) validator {
	switch name {
	case "PVMInstanceCreate":
		return &models.PVMInstanceCreate{}
	case "PVMInstance":
		return &models.PVMInstance{}
	case "PVMInstanceList":
		return &list[*models.PVMInstance]{}
	case "PVMInstances":
		return &models.PVMInstances{}
	case "DHCPServers":
		return &list[*models.DHCPServer]{}
	case "DHCPServerDetail":
		return &models.DHCPServerDetail{}
	case "Image":
		return &models.Image{}
	case "Network":
		return &models.Network{}
	case "Error":
		return &models.Error{}
	}
	return nil
}

func check(line []byte) error {
	var q struct {
		Model string          `json:"model"`
		Body  json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(line, &q); err != nil {
		return err
	}
	m := model(q.Model)
	if m == nil {
		return fmt.Errorf("no model %q", q.Model)
	}
	d := json.NewDecoder(bytes.NewReader(q.Body))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return err
	}
	return m.Validate(strfmt.Default)
}

func main() {
	in, out := bufio.NewReaderSize(os.Stdin, 1<<20), json.NewEncoder(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			return
		}
		answer := map[string]string{"error": ""}
		if err := check(line); err != nil {
			answer["error"] = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			os.Exit(1)
		}
	}
}
