"""Makes of an overlay what podman can play: writes the pod's YAML to standard output.

Usage: playable.py OVERLAY CERTIFICATE [ARGUMENT...]

The arguments are another command for a Job's container. Podman knows no Job: of one it plays the pod.

What changes: names of images, where the provider is and who vouches for it; the probes go, as podman would run curl
inside the container, which holds nothing but the program; and what is for the cluster alone.
"""

import pathlib
import subprocess
import sys

import yaml

overlay, certificate, arguments = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
manifests = subprocess.run(["kubectl", "kustomize", overlay], check=True, capture_output=True).stdout
items = {item["kind"]: item for item in yaml.safe_load_all(manifests)}
configuration, secret, workload = items["ConfigMap"], items["Secret"], items.get("Deployment") or items["Job"]

text = configuration["data"]["config.toml"]
authority = '\nca_file = "/etc/token-valet/ca.pem"'
configuration["data"]["config.toml"] = (
    text.replace('"https://ob.flinksapp.com"', f'"https://localhost:8443"{authority}')
    .replace('"https://ob.flinksapp.com/api/v1/token"', f'"https://localhost:8443/token"{authority}')
)
configuration["data"]["ca.pem"] = certificate.read_text()

pod = workload["spec"]["template"]["spec"]
for volume in pod["volumes"]:
    if "secret" in volume:
        # What is the default, but podman 4.3 crashes without it.
        volume["secret"]["optional"] = False
images = {"token-valet": "localhost/token-valet:test", "app": "localhost/app:test", "report": "localhost/report:test"}
for container in pod["containers"]:
    container["image"] = images[container["name"]]
    container["imagePullPolicy"] = "Never"
    # Podman would publish them.
    container.pop("ports", None)
    container.pop("startupProbe", None)
    container.pop("livenessProbe", None)
    if container["name"] == "app":
        # Busybox alone, without the links that its image has.
        script = container["command"][-1].replace("wget", "busybox wget").replace("sleep 10", "busybox sleep 1")
        container["command"] = ["/bin/busybox", "sh", "-c", script]
    if container["name"] == "report" and arguments:
        container["args"] = arguments
if workload["kind"] == "Deployment":
    workload["spec"]["replicas"] = 1
else:
    workload = {"apiVersion": "v1", "kind": "Pod", "metadata": workload["metadata"], "spec": pod}
yaml.safe_dump_all([configuration, secret, workload], sys.stdout)
