"""Nova's fake compute driver with two additions of the test kit: a server that has user data runs it as a process of this
machine (its console is the process's output, its power state the process's life), and two more hosts have accelerators as
resource classes. Nothing is virtualised. Installed as nova/virt/causeway_kit.py by start.sh."""

import base64
import os
import shutil
import signal
import subprocess
import threading

import nova.conf
from nova.compute import power_state
from nova.virt import event
from nova.virt import fake

CONF = nova.conf.CONF

# what a host has beyond processors, memory and disk
ACCELERATORS = {
    "gpu": ("PGPU", 8, "CUSTOM_GPU_NVA100S80"),
    "npu": ("CUSTOM_NPU", 8, "CUSTOM_NPU_HWA910B1"),
}


class ProcessDriver(fake.FakeDriver):
    capabilities = dict(fake.FakeDriver.capabilities, supports_migrate_to_same_host=True)

    vcpus = 64
    memory_mb = 64 * 1024
    local_gb = 4096

    def __init__(self, virtapi, read_only=False):
        super().__init__(virtapi, read_only)
        # the claims of the parent are one sum for all hosts; Placement keeps the real ones
        self.resources = fake.Resources(vcpus=1000000, memory_mb=1 << 40, local_gb=1 << 40)
        self._guests = {}

    def init_host(self, host):
        self._host = host
        self._set_nodes([host] + [f"{host}-{kind}" for kind in ACCELERATORS])

    def update_provider_tree(self, provider_tree, nodename, allocations=None):
        super().update_provider_tree(provider_tree, nodename, allocations)
        kind = nodename[len(self._host) + 1:]
        if kind in ACCELERATORS:
            name, total, model = ACCELERATORS[kind]
            inventory = dict(provider_tree.data(nodename).inventory)
            inventory[name] = {
                "total": total, "reserved": 0, "min_unit": 1, "max_unit": total, "step_size": 1, "allocation_ratio": 1.0,
            }
            provider_tree.update_inventory(nodename, inventory)
            provider_tree.add_traits(nodename, model, "CUSTOM_CAUSEWAY_ACCELERATED")

    # ---- guests ----

    def _folder(self, uuid):
        return os.path.join(CONF.state_path, "guests", uuid)

    def _boot(self, instance):
        if not instance.user_data:
            return
        folder = self._folder(instance.uuid)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        script = os.path.join(folder, "user-data")
        with open(script, "wb") as file:
            file.write(base64.b64decode(instance.user_data))
        os.chmod(script, 0o700)
        # what switches a real guest off ends this one's process
        programs = os.path.join(folder, "bin")
        os.makedirs(programs, exist_ok=True)
        with open(os.path.join(programs, "poweroff"), "w") as file:
            file.write("#!/bin/sh\nexit 0\n")
        os.chmod(file.name, 0o700)
        environment = {"PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": folder, "TMPDIR": folder,
                       "CAUSEWAY_CONSOLE": "/dev/stdout"}
        with open(os.path.join(folder, "console"), "ab") as console:
            guest = subprocess.Popen(
                ["/bin/sh", script], cwd=folder, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                start_new_session=True, env=environment)
        self._guests[instance.uuid] = guest
        threading.Thread(target=self._wait, args=(instance.uuid, guest), daemon=True).start()

    def _wait(self, uuid, guest):
        guest.wait()
        if self._guests.get(uuid) is not guest:
            return
        del self._guests[uuid]
        if uuid in self.instances:
            # a guest that has run what it was made for powers itself off
            self.instances[uuid].state = power_state.SHUTDOWN
            self.emit_event(event.LifecycleEvent(uuid, event.EVENT_LIFECYCLE_STOPPED))

    def _kill(self, uuid):
        guest = self._guests.pop(uuid, None)
        if guest is not None:
            try:
                os.killpg(guest.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            guest.wait()

    def spawn(self, context, instance, *args, **kwargs):
        super().spawn(context, instance, *args, **kwargs)
        if self.instances[instance.uuid].state == power_state.RUNNING:
            self._boot(instance)

    def power_off(self, instance, timeout=0, retry_interval=0):
        self._kill(instance.uuid)
        super().power_off(instance, timeout, retry_interval)

    def power_on(self, context, instance, *args, **kwargs):
        super().power_on(context, instance, *args, **kwargs)
        self._boot(instance)

    def reboot(self, context, instance, *args, **kwargs):
        self._kill(instance.uuid)
        super().reboot(context, instance, *args, **kwargs)

    def destroy(self, context, instance, *args, **kwargs):
        self._kill(instance.uuid)
        super().destroy(context, instance, *args, **kwargs)
        shutil.rmtree(self._folder(instance.uuid), ignore_errors=True)

    def get_console_output(self, context, instance):
        try:
            with open(os.path.join(self._folder(instance.uuid), "console"), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""
