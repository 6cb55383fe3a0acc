// SPDX-License-Identifier: Apache-2.0

// Plays confidential-data-hub's SecureMount with containerd's ttrpc and Google's protobuf: cdh-go SOCKET LOG. Each request is written to LOG,
// its options in the order of their keys, and a tmpfs stands for what would be in the LUKS container. A key that ends in "/refused" is not
// given out.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
	"syscall"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/emptypb"
)

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func field(name string, number int32, label descriptorpb.FieldDescriptorProto_Label, kind descriptorpb.FieldDescriptorProto_Type, of string) *descriptorpb.FieldDescriptorProto {
	f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &number, Label: &label, Type: &kind}
	if of != "" {
		f.TypeName = &of
	}
	return f
}

// guest-components: confidential-data-hub/hub/protos/api.proto
func requestType() protoreflect.MessageDescriptor {
	const (
		one    = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
		many   = descriptorpb.FieldDescriptorProto_LABEL_REPEATED
		text   = descriptorpb.FieldDescriptorProto_TYPE_STRING
		nested = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	)
	entry := &descriptorpb.DescriptorProto{
		Name:    proto.String("OptionsEntry"),
		Field:   []*descriptorpb.FieldDescriptorProto{field("key", 1, one, text, ""), field("value", 2, one, text, "")},
		Options: &descriptorpb.MessageOptions{MapEntry: proto.Bool(true)},
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name:    proto.String("api.proto"),
		Package: proto.String("api"),
		Syntax:  proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("SecureMountRequest"),
			Field: []*descriptorpb.FieldDescriptorProto{
				field("volume_type", 1, one, text, ""),
				field("options", 2, many, nested, ".api.SecureMountRequest.OptionsEntry"),
				field("flags", 3, many, text, ""),
				field("mount_point", 4, one, text, ""),
			},
			NestedType: []*descriptorpb.DescriptorProto{entry},
		}},
	}, nil)
	fatal(err)
	return file.Messages().ByName("SecureMountRequest")
}

func main() {
	kind := requestType()
	log, err := os.OpenFile(os.Args[2], os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0600)
	fatal(err)
	listener, err := net.Listen("unix", os.Args[1])
	fatal(err)
	server, err := ttrpc.NewServer()
	fatal(err)
	server.Register("api.SecureMountService", map[string]ttrpc.Method{
		"SecureMount": func(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
			m := dynamicpb.NewMessage(kind)
			if err := unmarshal(m); err != nil {
				return nil, err
			}
			get := func(name string) protoreflect.Value { return m.Get(kind.Fields().ByName(protoreflect.Name(name))) }
			var options []string
			key := ""
			get("options").Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				options = append(options, k.String()+"="+v.String())
				if k.String() == "key" {
					key = v.String()
				}
				return true
			})
			sort.Strings(options)
			target := get("mount_point").String()
			fmt.Fprintf(log, "%s %d %s %s\n", get("volume_type").String(), get("flags").List().Len(), strings.Join(options, " "), target)
			if strings.HasSuffix(key, "/refused") {
				return nil, status.Error(codes.Internal, "attestation has failed")
			}
			if err := syscall.Mount("cdh", target, "tmpfs", 0, ""); err != nil {
				return nil, err
			}
			return &emptypb.Empty{}, nil
		},
	})
	fatal(server.Serve(context.Background(), listener))
}
