// SPDX-License-Identifier: Apache-2.0

// vcsim USER PASSWORD is govmomi's vCenter simulator with what a test of clones needs beside the inventory of VPX(): templates, guests that
// get their addresses when they are powered on, tasks that take time or fail. It prints its URL, and ends with its standard input.
//
// GET /peer/state says what there is, POST /peer/set changes how it behaves (type settings).
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"path"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

type settings struct {
	TaskDelay map[string]int    `json:"task_delay"` // "CloneVm": milliseconds that the task takes
	TaskFault map[string]string `json:"task_fault"` // "CloneVM_Task": type of the fault that its task ends with
	Fault     map[string]string `json:"fault"`      // "PowerOnVM_Task": type of the fault of the call itself, once
	Addresses []string          `json:"addresses"`  // of the next guests' adapters, one after the other: "10.0.0.%d|fe80::1", "" for none
	Granted   []string          `json:"granted"`    // privileges of the role Admin; null: all
	Drs       *bool             `json:"drs"`        // false: the cluster recommends nothing
	Version   string            `json:"version"`    // about.apiVersion
}

type peer struct {
	model *simulator.Model
	admin []string

	mu       sync.Mutex
	settings settings
	failing  *failing
	reserved map[string]bool // folder/name of a clone that has not come to its machine yet
	n        int             // addresses
	cloned   int
	clones   map[string]*types.VirtualMachineCloneSpec // what was asked for, by name
}

// The simulator's clone leaves out what a specification has of configuration. A machine comes without its name, but with its directory.
func (g *guests) PutObject(_ *simulator.Context, o mo.Reference) {
	vm, ok := o.(*simulator.VirtualMachine)
	if !ok || vm.Config == nil || vm.Config.Files.SnapshotDirectory == "" {
		return
	}
	words := strings.Split(path.Base(vm.Config.Files.SnapshotDirectory), " ")
	name := words[len(words)-1]
	g.peer.mu.Lock()
	if key := vm.Parent.Value + "/" + name; g.peer.reserved[key] {
		g.peer.cloned++
		delete(g.peer.reserved, key)
	}
	g.peer.mu.Unlock()
	if c := g.peer.clone(name); c != nil && c.Config != nil && vm.Name == "" {
		vm.Config.InstanceUuid, vm.Summary.Config.InstanceUuid = c.Config.InstanceUuid, c.Config.InstanceUuid
		vm.Config.Annotation = c.Config.Annotation
		vm.Config.ExtraConfig = append(vm.Config.ExtraConfig, c.Config.ExtraConfig...)
	}
}

func (p *peer) clone(name string) *types.VirtualMachineCloneSpec {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.clones[name]
}

// A guest's tools say what its addresses are a moment after it was powered on.
type guests struct {
	types.ManagedObjectReference
	peer *peer
}

func (g *guests) Reference() types.ManagedObjectReference                       { return g.ManagedObjectReference }
func (g *guests) RemoveObject(*simulator.Context, types.ManagedObjectReference) {}
func (g *guests) UpdateObject(ctx *simulator.Context, o mo.Reference, changes []types.PropertyChange) {
	vm, ok := o.(*mo.VirtualMachine)
	if !ok {
		return
	}
	for _, c := range changes {
		if spec := g.peer.clone(vm.Name); c.Name == "name" && spec != nil && spec.Config != nil {
			if spec.Config.NumCPUs > 0 {
				vm.Config.Hardware.NumCPU, vm.Summary.Config.NumCpu = spec.Config.NumCPUs, spec.Config.NumCPUs
			}
			if spec.Config.MemoryMB > 0 {
				vm.Config.Hardware.MemoryMB, vm.Summary.Config.MemorySizeMB = int32(spec.Config.MemoryMB), int32(spec.Config.MemoryMB)
			}
		}
		if c.Name == "runtime.powerState" && c.Val == types.VirtualMachinePowerStatePoweredOn {
			go g.peer.address(vm.Self)
		}
	}
}

func (p *peer) address(ref types.ManagedObjectReference) {
	vm, ok := p.model.Map().Get(ref).(*simulator.VirtualMachine)
	if !ok {
		return
	}

	p.mu.Lock()
	p.n++
	n, addresses := p.n, p.settings.Addresses
	p.mu.Unlock()
	time.Sleep(30 * time.Millisecond)
	p.model.Map().WithLock(&simulator.Context{}, vm, func() {
		var first string
		nics := append([]types.GuestNicInfo(nil), vm.Guest.Net...)
		for i := range nics {
			if i >= len(addresses) || addresses[i] == "" {
				continue
			}
			for _, a := range strings.Split(addresses[i], "|") {
				if strings.Contains(a, "%d") {
					a = fmt.Sprintf(a, n%200+10)
				}
				nics[i].IpAddress = append(nics[i].IpAddress, a)
				if first == "" {
					first = a
				}
			}
		}
		p.model.Map().Update(p.model.Service.Context, vm, []types.PropertyChange{{Name: "guest.net", Val: nics}, {Name: "guest.ipAddress", Val: first}})
	})
}

func newFault(name string) types.BaseMethodFault {
	t, ok := types.TypeFunc()(name)
	if !ok {
		log.Fatalf("no such fault: %s", name)
	}
	return reflect.New(t).Interface().(types.BaseMethodFault)
}

func (p *peer) handle(ctx *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if name := p.settings.Fault[m.Name]; name != "" {
		delete(p.settings.Fault, m.Name)
		return nil, newFault(name)
	}
	if clone, ok := m.Body.(*types.CloneVM_Task); ok {
		if fault := p.missing(ctx, clone); fault != nil {
			return nil, fault
		}
		if fault := p.reserve(ctx, clone); fault != nil {
			return nil, fault
		}
		p.clones[clone.Name] = &clone.Spec
	}
	if m.Name == "CancelTask" {
		// The simulator's would say so, and go on.
		return nil, &types.NotSupported{}
	}
	switch {
	case p.settings.TaskFault[m.Name] != "":
		m.This = p.failing.Self
	case m.Name == "PlaceVm" && p.settings.Drs != nil && !*p.settings.Drs:
		m.This = p.failing.Self
	}
	return nil, nil
}

// The simulator takes it for granted that they are there.
func (p *peer) missing(ctx *simulator.Context, c *types.CloneVM_Task) types.BaseMethodFault {
	refs := []*types.ManagedObjectReference{&c.Folder, c.Spec.Location.Host, c.Spec.Location.Pool, c.Spec.Location.Datastore}
	for _, r := range refs {
		if r != nil && ctx.Map.Get(*r) == nil {
			return &types.ManagedObjectNotFound{Obj: *r}
		}
	}
	return nil
}

// A name is taken from the begin of a clone on; the simulator would see that at its end.
func (p *peer) reserve(ctx *simulator.Context, c *types.CloneVM_Task) types.BaseMethodFault {
	key := c.Folder.Value + "/" + c.Name
	if p.reserved[key] {
		return &types.DuplicateName{Name: c.Name, Object: c.Folder}
	}
	if f, ok := ctx.Map.Get(c.Folder).(*simulator.Folder); ok && p.settings.TaskFault["CloneVM_Task"] == "" {
		p.reserved[key] = ctx.Map.FindByName(c.Name, f.ChildEntity) == nil
	}
	return nil
}

type machine struct {
	Name         string            `json:"name"`
	InstanceUUID string            `json:"uuid"`
	Power        string            `json:"power"`
	CPUs         int32             `json:"cpus"`
	MemoryMB     int32             `json:"memory"`
	Template     bool              `json:"template"`
	Folder       string            `json:"folder"`
	Host         string            `json:"host"`
	Pool         string            `json:"pool"`
	Datastore    string            `json:"datastore"`
	Extra        map[string]string `json:"extra"`
	TDX          bool              `json:"tdx"`
	SEVSNP       bool              `json:"sev_snp"`
	Linked       string            `json:"linked"`
	Annotation   string            `json:"annotation"`
	Addresses    []string          `json:"addresses"`
}

func (p *peer) name(r *types.ManagedObjectReference) string {
	if r == nil {
		return ""
	}
	e, ok := p.model.Map().Get(*r).(mo.Entity)
	if !ok {
		return ""
	}
	return e.Entity().Name
}

func (p *peer) state(w http.ResponseWriter, _ *http.Request) {
	state := struct {
		Machines []machine `json:"machines"`
		Running  int       `json:"running"` // tasks
		Cloned   int       `json:"cloned"`  // machines so far
	}{Machines: []machine{}}

	p.mu.Lock()
	defer p.mu.Unlock()
	state.Cloned = p.cloned
	for _, e := range p.model.Map().All("VirtualMachine") {
		vm := e.(*simulator.VirtualMachine)
		m := machine{Name: vm.Name, InstanceUUID: vm.Config.InstanceUuid, Power: string(vm.Runtime.PowerState), CPUs: vm.Config.Hardware.NumCPU,
			MemoryMB: vm.Config.Hardware.MemoryMB, Template: vm.Config.Template, Folder: p.name(vm.Parent), Host: p.name(vm.Runtime.Host),
			Pool: p.name(vm.ResourcePool), Extra: map[string]string{}, Annotation: vm.Config.Annotation}
		if c := p.clones[vm.Name]; c != nil {
			m.Linked = c.Location.DiskMoveType
			m.TDX = c.Config != nil && c.Config.TdxEnabled != nil && *c.Config.TdxEnabled
			m.SEVSNP = c.Config != nil && c.Config.SevSnpEnabled != nil && *c.Config.SevSnpEnabled
		}
		if len(vm.Datastore) > 0 {
			m.Datastore = p.name(&vm.Datastore[0])
		}
		if vm.Guest != nil {
			for _, n := range vm.Guest.Net {
				m.Addresses = append(m.Addresses, n.IpAddress...)
			}
		}
		for _, o := range vm.Config.ExtraConfig {
			v := o.GetOptionValue()
			m.Extra[v.Key], _ = v.Value.(string)
		}
		state.Machines = append(state.Machines, m)
	}
	for _, r := range p.model.Map().AllReference("Task") {
		if t, ok := r.(*simulator.Task); ok && t.Info.State == types.TaskInfoStateRunning {
			state.Running++
		}
	}
	_ = json.NewEncoder(w).Encode(state)
}

func (p *peer) set(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settings = settings{Addresses: p.settings.Addresses} // which stay; all else is as it is said now
	if err := json.NewDecoder(r.Body).Decode(&p.settings); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// What a task has locked can be read meanwhile.
	simulator.TaskDelay.MethodDelay = map[string]int{"LockHandoff": 0}
	for k, v := range p.settings.TaskDelay {
		simulator.TaskDelay.MethodDelay[k] = v
	}
	// Guests that are up say their addresses again.
	for _, e := range p.model.Map().All("VirtualMachine") {
		if vm := e.(*simulator.VirtualMachine); vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn && p.clones[vm.Name] != nil {
			go p.address(vm.Self)
		}
	}
	roles := p.model.Map().Get(*p.model.ServiceContent.AuthorizationManager).(*simulator.AuthorizationManager).RoleList
	for i := range roles {
		if roles[i].Name == "Admin" {
			roles[i].Privilege = p.admin
			if p.settings.Granted != nil {
				roles[i].Privilege = p.settings.Granted
			}
		}
	}
	if p.settings.Version != "" {
		p.model.Map().Get(vim25.ServiceInstance).(*simulator.ServiceInstance).Content.About.ApiVersion = p.settings.Version
	}
}

// Templates as the tests know them.
func prepare(ctx context.Context, u *url.URL) error {
	c, err := govmomi.NewClient(ctx, u, true)
	if err != nil {
		return err
	}
	defer func() { _ = c.Logout(ctx) }()
	finder := find.NewFinder(c.Client)
	dc, err := finder.Datacenter(ctx, "DC0")
	if err != nil {
		return err
	}
	finder.SetDatacenter(dc)
	folders, err := dc.Folders(ctx)
	if err != nil {
		return err
	}
	images, err := folders.VmFolder.CreateFolder(ctx, "images")
	if err != nil {
		return err
	}
	more, err := images.CreateFolder(ctx, "more")
	if err != nil {
		return err
	}
	source, err := finder.VirtualMachine(ctx, "DC0_C0_RP0_VM0")
	if err != nil {
		return err
	}
	pool, err := finder.ResourcePool(ctx, "DC0_C0/Resources")
	if err != nil {
		return err
	}
	ref := pool.Reference()
	for _, t := range []struct {
		folder *object.Folder
		name   string
		nics   int
	}{{folders.VmFolder, "podvm-template", 1}, {images, "podvm-deep", 1}, {images, "podvm-two-nics", 2}, {images, "twice", 1}, {more, "twice", 1}} {
		task, err := source.Clone(ctx, t.folder, t.name, types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{Pool: &ref}})
		if err != nil {
			return err
		}
		info, err := task.WaitForResult(ctx)
		if err != nil {
			return err
		}
		vm := object.NewVirtualMachine(c.Client, info.Result.(types.ManagedObjectReference))
		if t.nics > 1 {
			network, err := finder.Network(ctx, "VM Network")
			if err != nil {
				return err
			}
			backing, err := network.EthernetCardBackingInfo(ctx)
			if err != nil {
				return err
			}
			nic, err := object.EthernetCardTypes().CreateEthernetCard("vmxnet3", backing)
			if err != nil {
				return err
			}
			nic.GetVirtualDevice().Key = 4001 // as a vCenter counts them; the simulator would say 205
			if err := vm.AddDevice(ctx, nic); err != nil {
				return err
			}
		}
		if t.name == "podvm-deep" {
			task, err := vm.CreateSnapshot(ctx, "base", "", false, false)
			if err != nil {
				return err
			}
			if err := task.Wait(ctx); err != nil {
				return err
			}
		}
		if err := vm.MarkAsTemplate(ctx); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	log.SetOutput(io.Discard)
	p := &peer{model: simulator.VPX(), reserved: map[string]bool{}, clones: map[string]*types.VirtualMachineCloneSpec{}}
	p.settings.Addresses = []string{"10.9.8.%d"}
	if err := p.model.Create(); err != nil {
		panic(err)
	}
	defer p.model.Remove()
	m := p.model.Map()
	p.admin = m.Get(*p.model.ServiceContent.AuthorizationManager).(*simulator.AuthorizationManager).RoleList[0].Privilege
	for _, r := range m.Get(*p.model.ServiceContent.AuthorizationManager).(*simulator.AuthorizationManager).RoleList {
		if r.Name == "Admin" {
			p.admin = r.Privilege
		}
	}
	p.model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(os.Args[1], os.Args[2])}
	p.model.Service.HandleFunc("/peer/state", p.state)
	p.model.Service.HandleFunc("/peer/set", p.set)
	server := p.model.Service.NewServer()
	defer server.Close()
	simulator.TaskDelay.MethodDelay = map[string]int{"LockHandoff": 0}
	if err := prepare(context.Background(), server.URL); err != nil {
		panic(err)
	}
	p.failing = &failing{peer: p}
	p.failing.Self = types.ManagedObjectReference{Type: "CustomizationSpecManager", Value: "failing"}
	m.Put(p.failing)
	m.AddHandler(&guests{types.ManagedObjectReference{Type: "PeerGuests", Value: "guests"}, p})
	m.Handler = p.handle
	fmt.Println("http://" + server.URL.Host)
	_, _ = io.Copy(io.Discard, os.Stdin)
}
