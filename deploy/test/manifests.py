"""Every overlay: valid against the schemas of Kubernetes and of the operator, "restricted", and as the design has it."""

import base64
import os
import pathlib
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator import v1 as operator

DEPLOY = pathlib.Path(__file__).parent.parent
PROGRAM = os.environ["TOKEN_VALET_STATIC_BIN"]
# Native sidecars are on by default since 1.29.
NATIVE = ["1.29", "1.33", "1.37"]
CLASSIC = ["1.25", "1.28", "1.37"]
VERSIONS = {
    "deployment": NATIVE,
    "cronjob": NATIVE,
    "recipient": NATIVE,
    "classic": CLASSIC,
    "classic-job": CLASSIC,
}
WORKLOADS = {"Deployment", "StatefulSet", "CronJob", "Job"}
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


class Fault(Exception):
    pass


def require(holds, what):
    if not holds:
        raise Fault(what)


def rendered(overlay):
    command = ["kubectl", "kustomize", DEPLOY / "kustomize/overlays" / overlay]
    done = subprocess.run(command, capture_output=True, text=True)
    require(done.returncode == 0, done.stderr)
    return list(yaml.safe_load_all(done.stdout))


def check_schema(item, versions):
    if item["apiVersion"] == "monitoring.coreos.com/v1":
        # What the model does not know it drops, so the way there and back shows it.
        model = getattr(operator, item["kind"]).model_validate(item)
        back = model.model_dump(mode="json", by_alias=True, exclude_none=True)
        require(back == item, f"{item['kind']}: the operator knows {back}")
        return
    for version in versions:
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Fault(f"{item['kind']} in {version}: {error.message} at {error.path}") from error


def check_restricted(pod):
    """The Pod Security Standard "restricted", over all containers."""
    security = pod.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        require(not pod.get(key), key)
    require(not security.get("sysctls"), "sysctls")
    for volume in pod.get("volumes", []):
        require(volume.keys() - {"name"} <= VOLUMES, f"volume {volume}")
    for container in pod.get("initContainers", []) + pod["containers"] + pod.get("ephemeralContainers", []):
        name, own = container["name"], container.get("securityContext", {})

        def in_force(key):
            return own.get(key, security.get(key))

        require(not own.get("privileged"), f"{name}: privileged")
        require(own.get("allowPrivilegeEscalation") is False, f"{name}: allowPrivilegeEscalation")
        capabilities = own.get("capabilities", {})
        require("ALL" in capabilities.get("drop", []), f"{name}: capabilities.drop")
        require(set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}, f"{name}: capabilities.add")
        require(in_force("runAsNonRoot") is True, f"{name}: runAsNonRoot")
        require(in_force("runAsUser") != 0, f"{name}: runAsUser")
        profile = (in_force("seccompProfile") or {}).get("type")
        require(profile in ("RuntimeDefault", "Localhost"), f"{name}: seccompProfile")
        require(own.get("procMount", "Default") == "Default", f"{name}: procMount")
        require(not any("hostPort" in port for port in container.get("ports", [])), f"{name}: hostPort")


def check_refuses():
    """That the checks find what they are for."""

    def pod_of(items):
        (workload,) = (item for item in items if item["kind"] in WORKLOADS)
        return workload["spec"]["template"]["spec"]

    def spoil_name(items):
        pod_of(items)["initContainers"][0]["startupProb"] = {}

    def spoil_type(items):
        pod_of(items)["initContainers"][0]["startupProbe"]["periodSeconds"] = "1s"

    def spoil_monitor(items):
        (monitor,) = (item for item in items if item["kind"] == "PodMonitor")
        monitor["spec"]["podMetricsEndpoints"][0]["intervall"] = "1s"

    def spoil_sidecar(items):
        pod_of(items)["initContainers"][0]["securityContext"]["capabilities"] = {"drop": ["KILL"]}

    def spoil_user(items):
        pod_of(items)["initContainers"][0]["securityContext"]["runAsUser"] = 0

    def spoil_volume(items):
        pod_of(items)["volumes"].append({"name": "host", "hostPath": {"path": "/"}})

    def spoil_command(items):
        pod_of(items)["containers"][0]["command"] = ["wget"]

    def spoil_number(items):
        pod_of(items)["containers"].append(dict(pod_of(items)["containers"][0], name="other"))

    def spoil_mode(items):
        pod_of(items)["volumes"][1]["secret"]["defaultMode"] = 0o444

    def spoil_only_user(items):
        pod_of(items)["containers"][0]["securityContext"]["runAsUser"] = 0

    spoilers = {
        "deployment": [spoil_name, spoil_type, spoil_monitor, spoil_sidecar, spoil_user, spoil_volume],
        "classic-job": [spoil_command, spoil_number, spoil_mode, spoil_only_user, spoil_volume],
    }
    for overlay, spoil in ((overlay, spoil) for overlay, all_of in spoilers.items() for spoil in all_of):
        items = rendered(overlay)
        spoil(items)
        try:
            for item in items:
                check_schema(item, NATIVE[1:2])
            check_restricted(pod_of(items))
            for item in items:
                if item["kind"] == "Job":
                    check_job(item, items)
        except (Fault, ValueError):
            continue
        raise Fault(f"{overlay}: nothing is found after {spoil.__name__}")
    return sum(map(len, spoilers.values()))


def check_sidecar(overlay, pod, labels, items):
    """What the design demands of the sidecar. Returns what must be the same in all overlays."""
    place = "containers" if overlay == "classic" else "initContainers"
    sidecars = [container for container in pod[place] if container["name"] == "token-valet"]
    require(len(sidecars) == 1, f"the sidecar is not in {place}")
    sidecar = sidecars[0]
    if overlay != "classic":
        require(pod[place][0] is sidecar, "another init container starts before it")
        require(sidecar.get("restartPolicy") == "Always", "it is no native sidecar")
    else:
        require("restartPolicy" not in sidecar, "restartPolicy is for init containers")

    address = {variable["name"]: variable["value"] for variable in sidecar["env"]}["TOKEN_VALET__ADMIN__ADDRESS"]
    (port,) = sidecar["ports"]
    require(address == f"0.0.0.0:{port['containerPort']}", "the admin port is not where the probes go")
    startup, liveness = sidecar["startupProbe"], sidecar["livenessProbe"]
    require(startup["httpGet"] == {"path": "/startupz", "port": port["name"]}, "startupProbe")
    require((startup["periodSeconds"], startup["failureThreshold"]) == (1, 3600), "startupProbe")
    require(liveness["httpGet"] == {"path": "/livez", "port": port["name"]}, "livenessProbe")
    require("readinessProbe" not in sidecar, "readinessProbe")
    require("lifecycle" not in sidecar, "preStop")
    check_surroundings(sidecar, pod, labels, items)
    return {key: value for key, value in sidecar.items() if key not in ("restartPolicy", "volumeMounts")}


def check_surroundings(container, pod, labels, items):
    """What the design demands of the container that the program runs in, and of the pod around it."""
    resources = container["resources"]
    require("cpu" in resources["requests"] and "cpu" not in resources["limits"], "no limit on the CPU, but a request")
    require("memory" in resources["limits"], "a limit on the memory")
    require(container["securityContext"]["readOnlyRootFilesystem"] is True, "read-only root")
    require(pod["automountServiceAccountToken"] is False, "service account token")

    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    secret = volumes["token-valet-secrets"]["secret"]
    require(secret["defaultMode"] == 0o440 and pod["securityContext"]["fsGroup"], "secrets 0440 by fsGroup")
    names = {(item["kind"], item["metadata"]["name"]) for item in items}
    require(("Secret", secret["secretName"]) in names, "the Secret")
    require(("ConfigMap", volumes["token-valet-config"]["configMap"]["name"]) in names, "the ConfigMap")
    for mount in container["volumeMounts"]:
        require("subPath" not in mount, f"{mount['name']}: subPath is never renewed")

    for item in items:
        spec = item.get("spec", {})
        selector = {"NetworkPolicy": spec.get("podSelector"), "PodMonitor": spec.get("selector")}.get(item["kind"])
        if selector:
            require(selector["matchLabels"].items() <= labels.items(), f"{item['kind']} selects another pod")


def check_job(workload, items):
    """Of a Job without a sidecar: its one container is the application and the program, and can end."""
    spec, template = workload["spec"], workload["spec"]["template"]
    pod = template["spec"]
    require("initContainers" not in pod and len(pod["containers"]) == 1, "more than one container")
    (container,) = pod["containers"]
    require(container["command"] == ["/token-valet", "exec", "--"] and container["args"], "exec, and a command")
    for key in ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle", "ports", "env"):
        require(key not in container, f"{key}: the admin port stays on 127.0.0.1")
    require(pod["restartPolicy"] == "Never", "restartPolicy")
    require(spec["backoffLimit"] <= 3 and spec["activeDeadlineSeconds"] <= 3600, "it tries for too long")
    require(container["terminationMessagePolicy"] == "FallbackToLogsOnError", "terminationMessagePolicy")
    # shutdown.grace, and the last token request.
    require(pod["terminationGracePeriodSeconds"] > 25 + 10, "no time for the command's end")
    check_surroundings(container, pod, template["metadata"]["labels"], items)


def check_state(workload, pod):
    spec = workload["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    require(spec["replicas"] == 1, "one consent, one replica")
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["initContainers"][0]["volumeMounts"]}
    require(mounts["/var/lib/token-valet"] == claim["metadata"]["name"], "the state's volume")
    # shutdown.grace, and the last token request.
    require(pod["terminationGracePeriodSeconds"] > 25 + 10, "no time for the last token request")


def check_configuration(items, place):
    """By the program, with the files where the pod has them."""
    maps = {item["kind"]: item for item in items if item["kind"] in ("ConfigMap", "Secret")}
    for name, value in maps["Secret"]["data"].items():
        (place / name).write_bytes(base64.b64decode(value))
    (place / "state").mkdir()
    text = maps["ConfigMap"]["data"]["config.toml"]
    text = text.replace("/run/secrets/token-valet", str(place)).replace("/var/lib/token-valet", str(place / "state"))
    (place / "config.toml").write_text(text)
    variables = {"TOKEN_VALET__ADMIN__ADDRESS": "0.0.0.0:9901"}
    command = [PROGRAM, "check", "-c", place / "config.toml"]
    told = subprocess.run(command, env=variables, capture_output=True, text=True)
    require(told.returncode == 0, told.stderr)


OTHER = """
apiVersion: apps/v1
kind: {kind}
metadata: {{name: other}}
spec:
  selector: {{matchLabels: {{app: other}}}}
  template:
    metadata: {{labels: {{app: other}}}}
    spec:
      securityContext: {{runAsNonRoot: true, supplementalGroups: [7]}}
      initContainers: [{{name: migrate, image: migrate, volumeMounts: [{{name: data, mountPath: /data}}]}}]
      containers: [{{name: one, image: one}}, {{name: two, image: two}}]
      volumes: [{{name: data, emptyDir: {{}}}}]
"""


def check_others():
    """That the components suit a workload with more in it, and leave that as it is."""
    for kind in ("Deployment", "StatefulSet", "DaemonSet"):
        for components in (["sidecar"], ["sidecar", "classic"]):
            with tempfile.TemporaryDirectory() as place:
                relative = [os.path.relpath(DEPLOY / "kustomize" / name, os.path.realpath(place)) for name in components]
                kustomization = {"resources": ["other.yaml"], "components": relative}
                pathlib.Path(place, "other.yaml").write_text(OTHER.format(kind=kind))
                pathlib.Path(place, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
                (workload,) = rendered(place)
            before = yaml.safe_load(OTHER.format(kind=kind))["spec"]["template"]["spec"]
            pod = workload["spec"]["template"]["spec"]
            names = [[container["name"] for container in pod[key]] for key in ("initContainers", "containers")]
            expected = [["migrate"], ["one", "two"]]
            if "classic" in components:
                expected[1].append("token-valet")
            else:
                expected[0].insert(0, "token-valet")
            require(names == expected, f"{kind}, {components}: {names}")
            for key in ("initContainers", "containers", "volumes"):
                require(all(item in pod[key] for item in before[key]), f"{kind}, {components}: {key} changes")
            require(before["securityContext"].items() <= pod["securityContext"].items(), f"{kind}: securityContext")


def check(overlay, versions):
    items = rendered(overlay)
    for item in items:
        check_schema(item, versions)
    (workload,) = (item for item in items if item["kind"] in WORKLOADS)
    spec = workload["spec"]
    template = (spec["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else spec)["template"]
    pod, labels = template["spec"], template["metadata"]["labels"]
    check_restricted(pod)
    if workload["kind"] == "Job":
        check_job(workload, items)
        sidecar = None
    else:
        sidecar = check_sidecar(overlay, pod, labels, items)
    if overlay == "recipient":
        check_state(workload, pod)
    if overlay == "classic":
        require(pod["terminationGracePeriodSeconds"] >= 15 + 25 + 10, "no time for the linger")
    with tempfile.TemporaryDirectory() as place:
        check_configuration(items, pathlib.Path(place))
    return len(items), sidecar


def main():
    found = {path.name for path in (DEPLOY / "kustomize/overlays").iterdir()}
    require(found == VERSIONS.keys(), f"overlays: {found}")
    count, sidecars = 0, []
    for overlay, versions in VERSIONS.items():
        try:
            number, sidecar = check(overlay, versions)
        except Fault as fault:
            raise Fault(f"{overlay}: {fault}") from fault
        count += number
        if sidecar:
            sidecars.append(sidecar)
    require(all(sidecar == sidecars[0] for sidecar in sidecars), "the sidecar is not the same in all overlays")
    check_others()
    spoiled = check_refuses()
    print(
        f"ran: {len(VERSIONS)} overlays, {count} objects, schemas of 1.25 to 1.37, restricted; 6 other workloads; "
        f"{spoiled} spoiled ones are refused; only schema-checked"
    )


if __name__ == "__main__":
    try:
        main()
    except Fault as fault:
        sys.exit(f"FAULT: {fault}")
