// SPDX-License-Identifier: Apache-2.0

// A CSI driver whose volumes are directories, attached by a note and mounted by bind mounts; and Kubernetes' own conformance test of CSI
// (kubernetes-csi/csi-test: pkg/sanity) to be put in front of it, or of what stands between.
//
//	csi driver SOCKET DIRECTORY
//	csi sanity CONTROLLER-SOCKET NODE-SOCKET DIRECTORY
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const nodeID = "sanity-node"

type volume struct {
	id, name, node string
	size           int64
}

type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	directory string
	mutex     sync.Mutex
	volumes   map[string]*volume
}

func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: "directories.csi.test", VendorVersion: "1"}, nil
}

func (d *driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{Type: &csi.PluginCapability_Service_{
		Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE}}}}}, nil
}

func (d *driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

func (d *driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	r := &csi.ControllerGetCapabilitiesResponse{}
	for _, t := range []csi.ControllerServiceCapability_RPC_Type{csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME} {
		r.Capabilities = append(r.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{
			Rpc: &csi.ControllerServiceCapability_RPC{Type: t}}})
	}
	return r, nil
}

func (d *driver) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if r.Name == "" || len(r.VolumeCapabilities) == 0 {
		return nil, status.Error(codes.InvalidArgument, "name or capabilities missing")
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	size := r.GetCapacityRange().GetRequiredBytes()
	for _, v := range d.volumes {
		if v.name != r.Name {
			continue
		}
		if v.size < size || (r.GetCapacityRange().GetLimitBytes() > 0 && v.size > r.GetCapacityRange().GetLimitBytes()) {
			return nil, status.Error(codes.AlreadyExists, "of another size")
		}
		return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: v.id, CapacityBytes: v.size}}, nil
	}
	v := &volume{id: fmt.Sprintf("dir-%d", len(d.volumes)) + "-" + r.Name, name: r.Name, size: size}
	if err := os.MkdirAll(d.path(v.id), 0o755); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	d.volumes[v.id] = v
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: v.id, CapacityBytes: v.size}}, nil
}

func (d *driver) path(id string) string { return filepath.Join(d.directory, "volumes", filepath.Base(id)) }

func (d *driver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if r.VolumeId == "" {
		return nil, status.Error(codes.InvalidArgument, "no volume")
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if v := d.volumes[r.VolumeId]; v != nil {
		if v.node != "" {
			return nil, status.Error(codes.FailedPrecondition, "attached to "+v.node)
		}
		delete(d.volumes, r.VolumeId)
		_ = os.RemoveAll(d.path(v.id))
	}
	return &csi.DeleteVolumeResponse{}, nil
}

func (d *driver) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if _, err := d.find(r.VolumeId, len(r.VolumeCapabilities) > 0); err != nil {
		return nil, err
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: r.VolumeCapabilities}}, nil
}

func (d *driver) find(id string, complete bool) (*volume, error) {
	if id == "" || !complete {
		return nil, status.Error(codes.InvalidArgument, "something is missing")
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if v := d.volumes[id]; v != nil {
		return v, nil
	}
	return nil, status.Error(codes.NotFound, "no volume "+id)
}

func (d *driver) ControllerPublishVolume(_ context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	v, err := d.find(r.VolumeId, r.NodeId != "" && r.VolumeCapability != nil)
	if err != nil {
		return nil, err
	}
	if r.NodeId != nodeID {
		return nil, status.Error(codes.NotFound, "no node "+r.NodeId)
	}
	v.node = r.NodeId
	return &csi.ControllerPublishVolumeResponse{PublishContext: map[string]string{"attached": r.VolumeId}}, nil
}

func (d *driver) ControllerUnpublishVolume(_ context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	v, err := d.find(r.VolumeId, true)
	if status.Code(err) == codes.InvalidArgument {
		return nil, err
	}
	if v != nil {
		v.node = ""
	}
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: nodeID}, nil
}

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{Capabilities: []*csi.NodeServiceCapability{{Type: &csi.NodeServiceCapability_Rpc{
		Rpc: &csi.NodeServiceCapability_RPC{Type: csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME}}}}}, nil
}

// What was mounted before stays: the callers may ask twice.
func bind(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	var a, b syscall.Stat_t
	if syscall.Stat(from, &a) == nil && syscall.Stat(to, &b) == nil && a.Ino == b.Ino && a.Dev == b.Dev {
		return nil
	}
	if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

func unbind(from string) error {
	for syscall.Unmount(from, 0) == nil {
	}
	if err := os.Remove(from); err != nil && !os.IsNotExist(err) {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

func (d *driver) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	v, err := d.find(r.VolumeId, r.StagingTargetPath != "" && r.VolumeCapability != nil)
	if err != nil {
		return nil, err
	}
	if r.PublishContext["attached"] != v.id {
		return nil, status.Error(codes.FailedPrecondition, "not attached")
	}
	return &csi.NodeStageVolumeResponse{}, bind(d.path(v.id), r.StagingTargetPath)
}

func (d *driver) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if _, err := d.find(r.VolumeId, r.StagingTargetPath != ""); err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, unbind(r.StagingTargetPath)
}

func (d *driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if _, err := d.find(r.VolumeId, r.TargetPath != "" && r.StagingTargetPath != "" && r.VolumeCapability != nil); err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, bind(r.StagingTargetPath, r.TargetPath)
}

func (d *driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if _, err := d.find(r.VolumeId, r.TargetPath != ""); err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, unbind(r.TargetPath)
}

func serve(socket, directory string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	d := &driver{directory: directory, volumes: map[string]*volume{}}
	s := grpc.NewServer()
	csi.RegisterIdentityServer(s, d)
	csi.RegisterControllerServer(s, d)
	csi.RegisterNodeServer(s, d)
	return s.Serve(listener)
}

type result struct{ failed bool }

func (r *result) Fail() { r.failed = true }

// connect has the first attempt at a socket fail. csi-test begins to connect, and then waits for a change of state (utils/grpcutil.go, Connect): one that
// has come already on a busy machine it does not see, and gives up. Now there is gRPC's pause of a second before it can.
func connect(path string, options []grpc.DialOption) (string, []grpc.DialOption) {
	var tried atomic.Bool
	return "passthrough:///" + path, append(options, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		if !tried.Swap(true) {
			return nil, syscall.EAGAIN
		}
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}))
}

func main() {
	switch {
	case len(os.Args) == 4 && os.Args[1] == "driver":
		fmt.Fprintln(os.Stderr, serve(os.Args[2], os.Args[3]))
		os.Exit(1)
	case len(os.Args) == 5 && os.Args[1] == "sanity":
		config := sanity.NewTestConfig()
		config.ControllerAddress, config.ControllerDialOptions = connect(os.Args[2], config.ControllerDialOptions)
		config.Address, config.DialOptions = connect(os.Args[3], config.DialOptions)
		config.TargetPath, config.StagingPath = filepath.Join(os.Args[4], "target"), filepath.Join(os.Args[4], "staging")
		var r result
		sanity.Test(&r, config)
		if r.failed {
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "see the beginning of main.go")
		os.Exit(2)
	}
}
