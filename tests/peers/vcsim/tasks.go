// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// What calls are sent to that shall fail: the simulator calls methods of an object by their names.
type failing struct {
	mo.CustomizationSpecManager
	peer *peer
}

func (f *failing) task(ctx *simulator.Context, this types.ManagedObjectReference, method, name string) types.ManagedObjectReference {
	f.peer.mu.Lock()
	fault := newFault(f.peer.settings.TaskFault[method])
	f.peer.mu.Unlock()
	return simulator.CreateTask(this, name, func(*simulator.Task) (types.AnyType, types.BaseMethodFault) { return nil, fault }).Run(ctx)
}

func (f *failing) CloneVMTask(ctx *simulator.Context, r *types.CloneVM_Task) soap.HasFault {
	return &methods.CloneVM_TaskBody{Res: &types.CloneVM_TaskResponse{Returnval: f.task(ctx, r.This, "CloneVM_Task", "cloneVm")}}
}

func (f *failing) PowerOnVMTask(ctx *simulator.Context, r *types.PowerOnVM_Task) soap.HasFault {
	return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: f.task(ctx, r.This, "PowerOnVM_Task", "powerOnVm")}}
}

func (f *failing) PowerOffVMTask(ctx *simulator.Context, r *types.PowerOffVM_Task) soap.HasFault {
	return &methods.PowerOffVM_TaskBody{Res: &types.PowerOffVM_TaskResponse{Returnval: f.task(ctx, r.This, "PowerOffVM_Task", "powerOffVm")}}
}

func (f *failing) DestroyTask(ctx *simulator.Context, r *types.Destroy_Task) soap.HasFault {
	return &methods.Destroy_TaskBody{Res: &types.Destroy_TaskResponse{Returnval: f.task(ctx, r.This, "Destroy_Task", "destroy")}}
}

// A cluster that knows no place.
func (f *failing) PlaceVm(*simulator.Context, *types.PlaceVm) soap.HasFault {
	return &methods.PlaceVmBody{Res: &types.PlaceVmResponse{}}
}
