"""Writes an OCI bundle that runs the image as the sidecar's manifest says, in the caller's network.

Usage: bundle.py PLACE VOLUMES [--seccomp FILE] [--memory] [--rootfs DIR]

VOLUMES has the directories etc, secrets and state, and perhaps hosts and resolv.conf, which the kubelet would write.
"""

import argparse
import json
import os
import pathlib
import subprocess

import yaml

OVERLAY = pathlib.Path(__file__).parent.parent / "kustomize/overlays/recipient"
VOLUMES = {"token-valet-config": "etc", "token-valet-secrets": "secrets", "token-valet-state": "state"}

parser = argparse.ArgumentParser()
parser.add_argument("place", type=pathlib.Path)
parser.add_argument("volumes", type=pathlib.Path)
parser.add_argument("--seccomp", type=pathlib.Path)
parser.add_argument("--memory", action="store_true", help="with the manifest's limit")
parser.add_argument("--rootfs", type=pathlib.Path, help="instead of the image's")
given = parser.parse_args()

image = pathlib.Path(os.environ["WORK"]) / "image"
config = json.loads((image / "config.json").read_text())["config"]
manifests = subprocess.run(["kubectl", "kustomize", OVERLAY], check=True, capture_output=True).stdout
(workload,) = (item for item in yaml.safe_load_all(manifests) if item["kind"] == "StatefulSet")
pod = workload["spec"]["template"]["spec"]
(sidecar,) = (container for container in pod["initContainers"] if container["name"] == "token-valet")
security = sidecar["securityContext"]
assert security["capabilities"] == {"drop": ["ALL"]} and "args" not in sidecar and "command" not in sidecar
assert f"{security['runAsUser']}:{security['runAsGroup']}" == config["User"]


def bind(source, destination, *options):
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["bind", *options]}


mounts = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
]
for mount in sidecar["volumeMounts"]:
    source = given.volumes / VOLUMES[mount["name"]]
    mounts.append(bind(source, mount["mountPath"], "ro" if mount.get("readOnly") else "rw"))
for name in ("hosts", "resolv.conf"):
    if (given.volumes / name).exists():
        mounts.append(bind(given.volumes / name, f"/etc/{name}", "ro"))

linux = {
    # None for the network: it is the pod's, which is the caller's here.
    "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
    "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
    "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
}
if given.seccomp:
    linux["seccomp"] = json.loads(given.seccomp.read_text())
if given.memory:
    limit = sidecar["resources"]["limits"]["memory"]
    linux["resources"] = {"memory": {"limit": int(limit.removesuffix("Mi")) << 20}}

bundle = {
    "ociVersion": "1.0.2",
    "root": {"path": str(given.rootfs or image / "rootfs"), "readonly": security["readOnlyRootFilesystem"]},
    "process": {
        "cwd": "/",
        "args": [*config["Entrypoint"], *config["Cmd"]],
        "env": [*config.get("Env", []), *(f"{variable['name']}={variable['value']}" for variable in sidecar["env"])],
        "user": {
            "uid": security["runAsUser"],
            "gid": security["runAsGroup"],
            "additionalGids": [pod["securityContext"]["fsGroup"]],
        },
        "capabilities": {},
        "noNewPrivileges": not security["allowPrivilegeEscalation"],
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 16384, "soft": 1024}],
    },
    "hostname": "pod",
    "mounts": mounts,
    "linux": linux,
}
given.place.mkdir(parents=True)
(given.place / "config.json").write_text(json.dumps(bundle, indent=1))
