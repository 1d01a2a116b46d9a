"""Writes an OCI bundle of the image: restricted as the manifests say, in the caller's network.

Usage: bundle.py PLACE VOLUMES [--seccomp FILE] [--memory BYTES] [--rootfs DIR] [-- ARGUMENTS...]

User, entry point and arguments are the image's own. VOLUMES has the directories etc, secrets and state.
"""

import argparse
import json
import os
import pathlib

parser = argparse.ArgumentParser()
parser.add_argument("place", type=pathlib.Path)
parser.add_argument("volumes", type=pathlib.Path)
parser.add_argument("--seccomp", type=pathlib.Path)
parser.add_argument("--memory", type=int)
parser.add_argument("--rootfs", type=pathlib.Path)
parser.add_argument("arguments", nargs="*")
given = parser.parse_args()

image = pathlib.Path(os.environ["WORK"]) / "image"
config = json.loads((image / "config.json").read_text())["config"]
uid, gid = (int(number) for number in config["User"].split(":"))


def bind(source, destination, *options):
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["bind", *options]}


mounts = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
    bind(given.volumes / "etc", "/etc/token-valet", "ro"),
    bind(given.volumes / "secrets", "/run/secrets/token-valet", "ro"),
    bind(given.volumes / "state", "/var/lib/token-valet", "rw"),
]
# As the kubelet does.
for name in ("hosts", "resolv.conf"):
    if (given.volumes / name).exists():
        mounts.append(bind(given.volumes / name, f"/etc/{name}", "ro"))

linux = {
    # No network: it is the pod's, which is the caller's here.
    "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
    "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
    "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
}
if given.seccomp:
    linux["seccomp"] = json.loads(given.seccomp.read_text())
if given.memory:
    linux["resources"] = {"memory": {"limit": given.memory}}

bundle = {
    "ociVersion": "1.0.2",
    "root": {"path": str(given.rootfs or image / "rootfs"), "readonly": True},
    "process": {
        "terminal": False,
        "cwd": "/",
        "args": [*config["Entrypoint"], *(given.arguments or config["Cmd"])],
        "env": [*config.get("Env", []), "TOKEN_VALET__ADMIN__ADDRESS=0.0.0.0:9901"],
        # The supplementary group is what an fsGroup adds.
        "user": {"uid": uid, "gid": gid, "additionalGids": [65532]},
        "capabilities": {},
        "noNewPrivileges": True,
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 16384, "soft": 1024}],
    },
    "hostname": "pod",
    "mounts": mounts,
    "linux": linux,
}
given.place.mkdir(parents=True)
(given.place / "config.json").write_text(json.dumps(bundle, indent=1))
