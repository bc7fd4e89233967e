"""What the OpenStack of the test kit holds: `catalogue STATE PORT TYPE=ADDRESS...`, then `resources STATE PORT`. Writes
credential.json (an application credential) and password.json into STATE, as the plugin takes them."""

import json
import os
import sys
import time
import urllib.error
import urllib.request

verb, state, port, *rest = sys.argv[1:]
KEYSTONE = f"http://127.0.0.1:{port}/v3"
PASSWORD = os.environ["CAUSEWAY_ADMIN_PASSWORD"]
VERSIONS = {"compute": "compute 2.96", "placement": "placement 1.39", "accelerator": "accelerator 2.0"}
token = None


def call(method, url, body=None, raw=None, version=None):
    headers = {"Content-Type": "application/json" if raw is None else "application/octet-stream"}
    if token:
        headers["X-Auth-Token"] = token
    if version:
        headers["OpenStack-API-Version"] = VERSIONS[version]
    data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, method=method, data=data, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=120)
    except urllib.error.HTTPError as error:
        print(method, url, error.code, error.read()[:1000])
        raise
    text = answer.read()
    return answer.headers, json.loads(text) if text[:1] in (b"{", b"[") else None


def keep(name, content):
    with open(os.path.join(state, name), "w") as file:
        json.dump(content, file)


user = {"name": "admin", "domain": {"id": "default"}, "password": PASSWORD}
headers, login = call("POST", KEYSTONE + "/auth/tokens", {"auth": {
    "identity": {"methods": ["password"], "password": {"user": user}},
    "scope": {"project": {"name": "admin", "domain": {"id": "default"}}}}})
token = headers["X-Subject-Token"]

if verb == "catalogue":
    for entry in rest:
        kind, address = entry.split("=")
        service = call("POST", KEYSTONE + "/services", {"service": {"type": kind, "name": kind}})[1]["service"]["id"]
        for interface in ("public", "internal", "admin"):
            call("POST", KEYSTONE + "/endpoints", {"endpoint": {
                "service_id": service, "interface": interface, "url": f"http://127.0.0.1:{address}", "region_id": "RegionOne"}})
    keep("password.json", {"username": "admin", "user_domain": "Default", "password": PASSWORD, "project": "admin",
                           "project_domain": "Default"})
    made = call("POST", f"{KEYSTONE}/users/{login['token']['user']['id']}/application_credentials", {
        "application_credential": {"name": "causeway"}})[1]["application_credential"]
    keep("credential.json", {"application_credential_id": made["id"], "application_credential_secret": made["secret"]})
    sys.exit()

at = {service["type"]: service["endpoints"][0]["url"] for service in login["token"]["catalog"] if service["endpoints"]}

image = call("POST", at["image"] + "/v2/images", {
    "name": "causeway", "disk_format": "raw", "container_format": "bare", "visibility": "public"})[1]["id"]
call("PUT", f"{at['image']}/v2/images/{image}/file", raw=b"x" * 4096)
network = call("POST", at["network"] + "/v2.0/networks", {"network": {"name": "causeway"}})[1]["network"]["id"]
call("POST", at["network"] + "/v2.0/subnets", {"subnet": {
    "network_id": network, "ip_version": 4, "cidr": "10.77.0.0/16", "enable_dhcp": False, "gateway_ip": None}})

for count in (1, 2, 16):
    call("POST", at["accelerator"] + "/device_profiles", [{
        "name": f"fpga-{count}", "groups": [{"resources:FPGA": "1", "trait:CUSTOM_FAKE_DEVICE": "required"}] * count}],
        version="accelerator")

PLAIN = {"trait:CUSTOM_CAUSEWAY_ACCELERATED": "forbidden"}
flavours = [("m1.nano", 64, 1, 0, PLAIN), ("m1.nano2", 64, 2, 0, PLAIN), ("m1.tiny", 256, 1, 1, PLAIN),
            ("m1.small", 2048, 2, 10, PLAIN), ("m1.large", 8192, 8, 40, PLAIN)]
for kind, name, model in (("gpu", "PGPU", "CUSTOM_GPU_NVA100S80"), ("npu", "CUSTOM_NPU", "CUSTOM_NPU_HWA910B1")):
    for count in (1, 2, 8):
        flavours.append((f"{kind}{count}.tiny", 256, 1, 1, {f"resources:{name}": str(count), f"trait:{model}": "required"}))
for count in (1, 2, 16):
    flavours.append((f"fpga{count}.tiny", 256, 1, 1, {"accel:device_profile": f"fpga-{count}"}))
for name, ram, vcpus, disk, extra in flavours:
    made = call("POST", at["compute"] + "/flavors", {"flavor": {"name": name, "ram": ram, "vcpus": vcpus, "disk": disk}},
                version="compute")[1]["flavor"]["id"]
    call("POST", f"{at['compute']}/flavors/{made}/os-extra_specs", {"extra_specs": extra}, version="compute")

# hosts are usable once they are mapped to their cell and have their inventories
wanted = {"fake-0": "VCPU", "fake-0-gpu": "PGPU", "fake-0-npu": "CUSTOM_NPU"}
deadline = time.time() + 180
while True:
    providers = call("GET", at["placement"] + "/resource_providers", version="placement")[1]["resource_providers"]
    have = {}
    for provider in providers:
        got = call("GET", f"{at['placement']}/resource_providers/{provider['uuid']}/inventories", version="placement")[1]
        have[provider["name"]] = set(got["inventories"])
    fpga = any("FPGA" in names for names in have.values())
    hosts = call("GET", at["compute"] + "/os-hypervisors", version="compute")[1]["hypervisors"]
    if fpga and len(hosts) >= len(wanted) and all(name in have.get(host, ()) for host, name in wanted.items()):
        break
    if time.time() > deadline:
        sys.exit(f"not ready: {have} {hosts}")
    time.sleep(0.5)
print("ready", {name: sorted(names) for name, names in have.items()})
