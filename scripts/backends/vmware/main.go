// The vCenter simulator of govmomi with one addition of the test kit: guests. A machine that is switched on and has user data
// (guestinfo.userdata, base64) runs it as a process of this computer, as cloud-init would, and is switched off when it
// ends; switching the machine off ends the process with everything that it started.
package main

import (
	"crypto/tls"
	"encoding/base64"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// option is the last value of an extra configuration option: the simulator appends.
func option(vm *simulator.VirtualMachine, key string) string {
	found := ""
	for _, option := range vm.Config.ExtraConfig {
		if value := option.GetOptionValue(); value.Key == key {
			found, _ = value.Value.(string)
		}
	}
	return found
}

// guest is a running process of a machine.
type guest struct {
	command *exec.Cmd
	ended   chan struct{}
}

func start(folder string, id string, script []byte) (*guest, error) {
	dir := filepath.Join(folder, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "user-data")
	if err := os.WriteFile(path, script, 0o600); err != nil {
		return nil, err
	}
	console, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		return nil, err
	}
	command := exec.Command("sh", path)
	command.Dir = dir
	// the script ends with `poweroff`, which here is a program that does nothing: the machine goes off when the script ends
	command.Env = []string{"PATH=" + filepath.Join(folder, "bin") + ":/usr/bin:/bin", "TMPDIR=" + dir, "HOME=" + dir}
	command.Stdout, command.Stderr = console, console
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		return nil, err
	}
	running := &guest{command: command, ended: make(chan struct{})}
	go func() {
		_ = command.Wait()
		console.Close()
		close(running.ended)
	}()
	return running, nil
}

func (g *guest) over() bool {
	select {
	case <-g.ended:
		return true
	default:
		return false
	}
}

// play looks at all machines and makes their guests follow.
func play(folder string, guests map[string]*guest, begun map[string]bool) {
	seen := map[string]bool{}
	for _, entity := range simulator.Map.All("VirtualMachine") {
		vm, ok := entity.(*simulator.VirtualMachine)
		if !ok {
			continue
		}
		id := vm.Self.Value
		seen[id] = true
		var on bool
		var data string
		simulator.Map.WithLock(vm, func() {
			on = vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
			data = option(vm, "guestinfo.userdata")
		})
		running := guests[id]
		switch {
		case on && running == nil && !begun[id] && data != "":
			begun[id] = true
			script, err := base64.StdEncoding.DecodeString(data)
			if err == nil {
				guests[id], err = start(folder, id, script)
			}
			if err != nil {
				log.Printf("guest of %s: %v", id, err)
			}
		case on && running != nil && running.over():
			delete(guests, id)
			simulator.Map.WithLock(vm, func() {
				off := types.VirtualMachinePowerStatePoweredOff
				simulator.Map.Update(vm, []types.PropertyChange{
					{Name: "runtime.powerState", Val: off},
					{Name: "summary.runtime.powerState", Val: off},
				})
			})
		case !on:
			// user data run at each first start of a machine; a machine of ours is never started twice on purpose
			if running != nil {
				_ = syscall.Kill(-running.command.Process.Pid, syscall.SIGKILL)
				delete(guests, id)
			}
		}
	}
	for id, running := range guests {
		if !seen[id] {
			_ = syscall.Kill(-running.command.Process.Pid, syscall.SIGKILL)
			delete(guests, id)
		}
	}
}

func main() {
	listen := flag.String("l", "127.0.0.1:8989", "listen")
	certificate := flag.String("cert", "", "PEM of the server's certificate")
	key := flag.String("key", "", "PEM of its key")
	user := flag.String("username", "user", "who may sign in")
	password := flag.String("password-file", "", "file with the password")
	folder := flag.String("guests", "", "folder for guests")
	model := simulator.VPX()
	model.Host = 0
	flag.IntVar(&model.Cluster, "cluster", 4, "clusters")
	flag.IntVar(&model.ClusterHost, "host", 1, "hosts per cluster")
	flag.IntVar(&model.Machine, "vm", 1, "machines per cluster, the templates")
	flag.Parse()
	model.Autostart = false
	secret, err := os.ReadFile(*password)
	if err != nil {
		log.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(*certificate, *key)
	if err != nil {
		log.Fatal(err)
	}
	bin := filepath.Join(*folder, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "poweroff"), []byte("#!/bin/sh\n"), 0o700); err != nil {
		log.Fatal(err)
	}
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	// hosts of the model are small: these are what the suite asks for
	for _, entity := range simulator.Map.All("HostSystem") {
		if host, ok := entity.(*simulator.HostSystem); ok {
			hardware := *host.Summary.Hardware
			hardware.NumCpuCores, hardware.MemorySize = 64, 256<<30
			host.Summary.Hardware = &hardware
		}
	}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	model.Service.Listen = &url.URL{Host: *listen, User: url.UserPassword(*user, string(secret))}
	server := model.Service.NewServer()
	fmt.Println("vCenter simulator at", server.URL.Host)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	guests, begun := map[string]*guest{}, map[string]bool{}
	for {
		select {
		case <-stop:
			for _, running := range guests {
				_ = syscall.Kill(-running.command.Process.Pid, syscall.SIGKILL)
			}
			model.Remove()
			server.Close()
			return
		case <-time.After(10 * time.Millisecond):
			play(*folder, guests, begun)
		}
	}
}

