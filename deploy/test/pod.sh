# A real pod: the overlay "classic" by `podman kube play`, with its Secret, its ConfigMap and its security context.
. "$(dirname "$0")/lib.sh"
. "$here/build.sh"
cat >"$own/containers.conf" <<TOML
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=4096:4096"]
log_driver = "k8s-file"
TOML
export CONTAINERS_CONF=$own/containers.conf
podman() { command podman --root "$own/root" --runroot "$own/run" --tmpdir "$own/tmp" "$@"; }

mkdir "$own/app-context"
cp "$(command -v busybox)" "$own/app-context"
printf 'FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\n' >"$own/app-context/Dockerfile"
buildah_in "$own" bud --isolation chroot --quiet --tag localhost/app:test "$own/app-context"
tar --create --file "$own/image.tar" --directory "$WORK/image/layout" .
podman load --quiet --input "$own/image.tar"
podman tag "$(cut -d: -f2 "$WORK/image/id")" localhost/token-valet:test

certificates "$own/tls"
python3 "$here/playable.py" "$deploy/kustomize/overlays/classic" "$own/tls/ca.pem" >"$own/pod.yaml"
take_down() {
  local pod
  pod=$(podman pod inspect legacy-app-pod-0 | jq -r .Id) || pod=none
  podman kube down "$own/pod.yaml" >/dev/null 2>&1 || true
  # Podman leaves its control groups behind, empty.
  find /sys/fs/cgroup -depth -type d -path "*/libpod_parent/$pod*" -exec rmdir {} + 2>/dev/null || true
  find /sys/fs/cgroup -maxdepth 2 -type d -name libpod_parent -exec rmdir {} + 2>/dev/null || true
}
trap 'take_down; end_all' EXIT
podman kube play --network none "$own/pod.yaml"
sidecar=legacy-app-pod-0-token-valet app=legacy-app-pod-0-app
of() { podman inspect "$1" | jq -r ".[0].$2"; }

# The provider comes up later, inside the pod's network, which has no other.
inside=$(of $sidecar State.Pid)
until_true 10 grep -q 'Connection refused' <(podman logs --follow $sidecar 2>&1) || fail "it does not ask for a token"
start "$own/provider.log" nsenter --net="/proc/$inside/ns/net" \
  node "$here/provider.mjs" 8443 "$own/tls/provider.key" "$own/tls/provider.pem"
has_answers() { [ "$(podman logs $app 2>&1 | grep -o '"http"' | wc -l)" -ge "$1" ]; }
until_true 20 has_answers 3 || fail "the application gets no answers: $(podman logs $app $sidecar 2>&1)"
for probe in startupz livez readyz; do
  nsenter --net="/proc/$inside/ns/net" curl -s -f "http://127.0.0.1:9901/$probe" || fail "$probe"
done

for line in 'Uid:.65532' 'Groups:.*65532' 'CapEff:.0000000000000000' 'CapBnd:.0000000000000000' 'NoNewPrivs:.1' 'Seccomp:.2'; do
  grep -q "^$line" "/proc/$inside/status" || fail "not in /proc/PID/status: $line"
done
[ "$(of $sidecar HostConfig.ReadonlyRootfs)" = true ] || fail "the root can be written to"
[ "$(of $sidecar HostConfig.Memory)" = $((128 << 20)) ] || fail "the memory limit"
[ "$(of $sidecar RestartCount)" = 0 ] || fail "it was restarted"

# As at the end of a classic pod, SIGTERM is there before the application ends: its next requests have their answers.
podman kill --signal TERM $sidecar
until_true 5 grep -q '"signal":"SIGTERM"' <(podman logs --follow $sidecar 2>&1) || fail "SIGTERM is not seen"
answers=$(podman logs $app 2>&1 | grep -o '"http"' | wc -l)
until_true 10 has_answers $((answers + 3)) || fail "the application's last requests fail: $(podman logs $app 2>&1 | tail -3)"
podman pod stop --time 40 legacy-app-pod-0
[ "$(of $sidecar State.ExitCode)" = 0 ] || fail "exit code $(of $sidecar State.ExitCode): $(podman logs $sidecar 2>&1)"
[ "$(of $sidecar State.OOMKilled)" = false ] || fail "out of memory"
echo "ran: podman $(podman version --format '{{.Client.Version}}'), overlay classic: provider down, then answers, also after SIGTERM; restricted; exit 0"
