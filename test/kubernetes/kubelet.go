// Calls device plugins as the kubelet does, over the gRPC that kubelets have; decides nothing by itself.
//
//	go-kubelet DIRECTORY [AUTHORITY]
//
// It serves Registration at DIRECTORY/kubelet.sock. Each line of its input is a call to make, each line of its output an
// event: both are JSON. AUTHORITY is the name that it calls plugins by; up to 1.25 the kubelet has the path of the socket.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	plugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// The kubelet's own limit.
const dialTimeout = 10 * time.Second

type event struct {
	Event    string      `json:"event"`
	Resource string      `json:"resource,omitempty"`
	ID       string      `json:"id,omitempty"`
	Value    interface{} `json:"value,omitempty"`
	Error    string      `json:"error,omitempty"`
	Code     string      `json:"code,omitempty"`
}

type call struct {
	Call     string   `json:"call"`
	ID       string   `json:"id"`
	Resource string   `json:"resource"`
	Devices  []string `json:"devices"`
	Must     []string `json:"must"`
	Size     int32    `json:"size"`
	Socket   string   `json:"socket"`
}

type kubelet struct {
	directory string
	authority string
	lock      sync.Mutex
	plugins   map[string]plugin.DevicePluginClient
	output    *json.Encoder
}

func (k *kubelet) tell(e event) {
	k.lock.Lock()
	defer k.lock.Unlock()
	if err := k.output.Encode(e); err != nil {
		os.Exit(1)
	}
}

func failed(e event, err error) event {
	e.Error, e.Code = status.Convert(err).Message(), status.Code(err).String()
	return e
}

func (k *kubelet) dial(socket string) (*grpc.ClientConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	authority := k.authority
	if authority == "" {
		authority = socket
	}
	return grpc.DialContext(ctx, "passthrough:///"+socket,
		grpc.WithAuthority(authority),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithBlock(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
}

func (k *kubelet) Register(_ context.Context, request *plugin.RegisterRequest) (*plugin.Empty, error) {
	k.tell(event{Event: "registered", Resource: request.ResourceName, Value: request})
	if request.Version != plugin.Version {
		return &plugin.Empty{}, fmt.Errorf("requested API version %q is not supported by kubelet", request.Version)
	}
	// The kubelet answers first, and then calls.
	go k.follow(request.ResourceName, filepath.Join(k.directory, request.Endpoint))
	return &plugin.Empty{}, nil
}

// Hears of the devices of a plugin until its stream ends.
func (k *kubelet) follow(resource, socket string) {
	connection, err := k.dial(socket)
	if err != nil {
		k.tell(failed(event{Event: "unreachable", Resource: resource}, err))
		return
	}
	defer connection.Close()
	client := plugin.NewDevicePluginClient(connection)
	options, err := client.GetDevicePluginOptions(context.Background(), &plugin.Empty{})
	if err != nil {
		k.tell(failed(event{Event: "ended", Resource: resource}, err))
		return
	}
	k.tell(event{Event: "options", Resource: resource, Value: options})
	stream, err := client.ListAndWatch(context.Background(), &plugin.Empty{})
	if err != nil {
		k.tell(failed(event{Event: "ended", Resource: resource}, err))
		return
	}
	k.lock.Lock()
	k.plugins[resource] = client
	k.lock.Unlock()
	for {
		list, err := stream.Recv()
		if err != nil {
			k.tell(failed(event{Event: "ended", Resource: resource}, err))
			return
		}
		devices := list.Devices
		if devices == nil {
			devices = []*plugin.Device{}
		}
		k.tell(event{Event: "devices", Resource: resource, Value: devices})
	}
}

// Makes one call, and tells what came of it.
func (k *kubelet) make(c call) {
	answer, err := k.ask(c)
	e := event{Event: "answer", ID: c.ID, Resource: c.Resource, Value: answer}
	if err != nil {
		e.Value = nil
		e = failed(e, err)
	}
	k.tell(e)
}

func (k *kubelet) ask(c call) (interface{}, error) {
	ctx := context.Background()
	if c.Call == "info" {
		return k.info(ctx, c.Socket)
	}
	k.lock.Lock()
	client, known := k.plugins[c.Resource]
	k.lock.Unlock()
	if !known {
		return nil, fmt.Errorf("no plugin has registered %q", c.Resource)
	}
	switch c.Call {
	case "allocate":
		return client.Allocate(ctx, &plugin.AllocateRequest{
			ContainerRequests: []*plugin.ContainerAllocateRequest{{DevicesIDs: c.Devices}},
		})
	case "preferred":
		return client.GetPreferredAllocation(ctx, &plugin.PreferredAllocationRequest{
			ContainerRequests: []*plugin.ContainerPreferredAllocationRequest{{
				AvailableDeviceIDs:   c.Devices,
				MustIncludeDeviceIDs: c.Must,
				AllocationSize:       c.Size,
			}},
		})
	case "start":
		return client.PreStartContainer(ctx, &plugin.PreStartContainerRequest{DevicesIDs: c.Devices})
	}
	return nil, fmt.Errorf("there is no call %q", c.Call)
}

// What the kubelet does with a socket that it finds in plugins_registry.
func (k *kubelet) info(ctx context.Context, socket string) (interface{}, error) {
	connection, err := k.dial(socket)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	client := registration.NewRegistrationClient(connection)
	info, err := client.GetInfo(ctx, &registration.InfoRequest{})
	if err != nil {
		return nil, err
	}
	_, err = client.NotifyRegistrationStatus(ctx, &registration.RegistrationStatus{PluginRegistered: true})
	if err == nil && info.Type == registration.DevicePlugin {
		endpoint := info.Endpoint
		if endpoint == "" {
			endpoint = socket
		}
		go k.follow(info.Name, endpoint)
	}
	return info, err
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: go-kubelet DIRECTORY [AUTHORITY]")
		os.Exit(2)
	}
	k := &kubelet{
		directory: os.Args[1],
		authority: "localhost",
		plugins:   map[string]plugin.DevicePluginClient{},
		output:    json.NewEncoder(os.Stdout),
	}
	if len(os.Args) > 2 {
		k.authority = os.Args[2]
	}
	socket := filepath.Join(k.directory, "kubelet.sock")
	// As the kubelet does: whatever was there before is gone.
	os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	server := grpc.NewServer()
	plugin.RegisterRegistrationServer(server, k)
	go server.Serve(listener)
	k.tell(event{Event: "listening"})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var c call
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		go k.make(c)
	}
}
