"""The README's five minutes: its commands are run, with stand-ins for what needs a registry, a cluster or systemd, and
what they make is checked as the overlays are."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import yaml
from manifests import DEPLOY, NATIVE, Fault, check_configuration, check_restricted, check_schema, check_sidecar, require

ROOT = DEPLOY.parent
HEADING = "From nothing to a pod in five minutes"
# Writes down each call. Of kubectl it does what needs no cluster, and for cargo it makes an empty program.
STAND_IN = f"""#!/bin/sh
set -eu
name=$(basename "$0")
{shlex.quote(sys.executable)} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$name" "$@" >>"$CALLS"
case "$name $1" in
"kubectl apply") {shutil.which("kubectl")} kustomize "$3" >>"$MADE" ;;
"cargo build") mkdir -p target/release && touch target/release/token-valet ;;
"kubectl create") {shutil.which("kubectl")} "$@" --dry-run=client -o yaml >>"$MADE" ;;
esac
echo --- >>"$MADE"
"""


def blocks(readme):
    """The commands: for the cluster, to look at it, and for systemd."""
    section = readme.split(f"\n## {HEADING}\n")[1].split("\n## ")[0]
    found = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    require(len(found) == 3, f"{len(found)} blocks")
    return section, found


def played(script, place):
    """Runs it as a reader does, who has the repository and the secret. Returns the calls of what is stood in for, and
    the objects that would be in the cluster."""
    shutil.copytree(DEPLOY, place / "deploy", ignore=shutil.ignore_patterns("test"))
    (place / "client_secret").write_text("secret\n")
    programs = place / "programs"
    programs.mkdir()
    for name in ("cargo", "docker", "kubectl", "install", "systemctl"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    calls, made = place / "calls", place / "made"
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(calls), "MADE": str(made), "HOME": str(place)}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True)
    require(done.returncode == 0, f"the commands end with {done.returncode}: {done.stderr}")
    items = [item for item in yaml.safe_load_all(made.read_text()) if item]
    return [json.loads(line) for line in calls.read_text().splitlines()], items


def of(calls, *beginning):
    """The arguments of the one call that begins like that."""
    found = [call[len(beginning) :] for call in calls if tuple(call[: len(beginning)]) == beginning]
    require(len(found) == 1, f"{len(found)} calls of {beginning}")
    return found[0]


def check_cluster(script):
    """What is built, pushed and applied fits together, and the pod is as those of the overlays. Returns its objects."""
    with tempfile.TemporaryDirectory() as directory:
        place = pathlib.Path(directory)
        calls, items = played(script, place)
        _, file, _, image, context = of(calls, "docker", "build")
        require((place / context / file).is_file(), f"there is no {file}")
        require(of(calls, "docker", "push") == [image], "another image is pushed")
        for item in items:
            check_schema(item, NATIVE)
        (workload,) = (item for item in items if item["kind"] == "Deployment")
        template = workload["spec"]["template"]
        pod = template["spec"]
        check_restricted(pod)
        check_sidecar("readme", pod, template["metadata"]["labels"], items)
        require(pod["initContainers"][0]["image"] == image, "the pod has another image")
        version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
        require(image.endswith(f":{version}"), f"the image is not of version {version}")
        (place / "check").mkdir()
        check_configuration(items, place / "check")
        return items


def check_looks(section, script, items):
    """What is looked at is there: the workload, its containers, the ports, and the line of the log."""
    (workload,) = (item for item in items if item["kind"] == "Deployment")
    pod = workload["spec"]["template"]["spec"]
    containers = {container["name"]: container for container in pod["initContainers"] + pod["containers"]}
    with tempfile.TemporaryDirectory() as directory:
        # Nothing is made.
        calls, _ = played(script, pathlib.Path(directory))
    for call in calls:
        require(f"deployment/{workload['metadata']['name']}" in call, f"{call} is about another workload")
        if "-c" in call:
            require(call[call.index("-c") + 1] in containers, f"{call} is about another container")
    health = calls[[call[:2] for call in calls].index(["kubectl", "exec"])]
    program = health[health.index("--") + 1]
    require(f'ENTRYPOINT ["{program}"]' in (DEPLOY / "Dockerfile").read_text(), f"{program} is not in the image")
    (port,) = containers["token-valet"]["ports"]
    forwarded = of(calls, "kubectl", "port-forward")[1:]
    require(forwarded == [str(port["containerPort"])], "another port than the admin port")
    quoted = re.search(r'# "(.+)"', script)[1]
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
    require(f'"{quoted}"' in sources, f"the log never says: {quoted}")
    address = next(iter(re.findall(r"address of the API to `(http://[^`]+)`", section)), None)
    reference = (ROOT / "config/token-valet.toml").read_text()
    default = re.search(r'^\[listen\].*?^# address = "127.0.0.1:(\d+)"$', reference, re.MULTILINE | re.DOTALL)[1]
    require(address == f"http://127.0.0.1:{default}", f"the application is told to call {address}")


def check_systemd(script):
    """What is installed was made before and is where the unit has it, and the secret is where the configuration looks
    for it."""
    with tempfile.TemporaryDirectory() as directory:
        place = pathlib.Path(directory)
        calls, _ = played(script, place)
        unit = (DEPLOY / "systemd/token-valet.service").read_text()
        installed = [call[-2:] for call in calls if call[0] == "install"]
        for source, target in installed:
            require((place / source).exists(), f"there is no {source}")
            is_unit = target == "/etc/systemd/system/token-valet.service"
            is_named = re.search(rf"^(ExecStart|LoadCredential)=.*{re.escape(target)}( |$)", unit, re.MULTILINE)
            require(is_unit or is_named, f"the unit does not name {target}")
        made = (place / "config.toml").read_text()
    require(re.search(r'client_secret_file = "(.+)"', made)[0] in unit, "the secret is elsewhere")
    require(of(calls, "cargo") == ["build", "--release"], "another program is built")
    require(of(calls, "systemctl", "enable") == ["--now", "token-valet"], "the unit is not enabled")
    require(len(installed) == 4, f"{len(installed)} files are installed")


def check_refuses(check, script, spoiled):
    """That a check finds what it is for."""
    for good, bad in spoiled.items():
        require(good in script, f"{good} is not in the commands")
        try:
            check(script.replace(good, bad))
        except (Fault, ValueError):
            continue
        raise Fault(f"nothing is found after {bad}")
    return len(spoiled)


def main():
    section, (cluster, looks, systemd) = blocks((ROOT / "README.md").read_text())
    items = check_cluster(cluster)
    check_looks(section, looks, items)
    check_systemd(systemd)
    of_cluster = {
        "deploy/Dockerfile": "deploy/dockerfile",
        "kustomize/sidecar]": "kustomize/classic]",
        "newTag: 0.1.0": "newTag: 0.1.1",
        "--from-file=client_secret": "--from-file=secret=client_secret",
        "create secret generic token-valet": "create secret generic other",
        "config.toml >my-pod/config.toml": "config.toml | grep -v grant >my-pod/config.toml",
    }
    of_systemd = {
        "cargo build --release\n": "\n",
        "config.toml >config.toml": "config.toml >other.toml",
        "credentials/token-valet.service/": "credentials/",
    }
    count = check_refuses(check_cluster, cluster, of_cluster) + check_refuses(check_systemd, systemd, of_systemd)
    print(
        f"ran: the README's commands, with stand-ins; {len(items)} objects, as the overlays' only schema-checked; "
        f"{count} spoiled ones are refused"
    )


if __name__ == "__main__":
    try:
        main()
    except Fault as fault:
        sys.exit(f"FAULT: {fault}")
