# Shell: how the steps play a pod. Sourced after lib.sh and build.sh; the pod is in $own/pod.yaml.
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
of() { podman inspect "$1" | jq -r ".[0].$2"; }

# build_application TAG LINE...: an image of busybox, and of these lines of its Dockerfile. Its context is $own/app-context.
build_application() {
  local tag=$1
  shift
  mkdir -p "$own/app-context"
  cp "$(command -v busybox)" "$own/app-context"
  printf '%s\n' 'FROM scratch' 'COPY busybox /bin/busybox' 'COPY busybox /bin/sh' "$@" >"$own/app-context/Dockerfile"
  buildah_in "$own" bud --isolation chroot --quiet --tag "$tag" "$own/app-context"
}

# take_down POD
take_down() {
  local pod
  pod=$(podman pod inspect "$1" | jq -r .Id) || pod=none
  podman kube down "$own/pod.yaml" >/dev/null 2>&1 || true
  # Podman leaves its control groups behind, empty.
  find /sys/fs/cgroup -depth -type d -path "*/libpod_parent/$pod*" -exec rmdir {} + 2>/dev/null || true
  find /sys/fs/cgroup -maxdepth 2 -type d -name libpod_parent -exec rmdir {} + 2>/dev/null || true
}

# start_provider_inside PID: in the network of this process, which has no other.
start_provider_inside() {
  start "$own/provider.log" nsenter --net="/proc/$1/ns/net" \
    node "$here/provider.mjs" 8443 "$own/tls/provider.key" "$own/tls/provider.pem"
}

# check_restriction CONTAINER MEGABYTES
check_restriction() {
  local line status
  status=/proc/$(of "$1" State.Pid)/status
  for line in 'Uid:.65532' 'Groups:.*65532' 'CapEff:.0000000000000000' 'CapBnd:.0000000000000000' 'NoNewPrivs:.1' 'Seccomp:.2'; do
    grep -q "^$line" "$status" || fail "not in /proc/PID/status: $line"
  done
  [ "$(of "$1" HostConfig.ReadonlyRootfs)" = true ] || fail "the root can be written to"
  [ "$(of "$1" HostConfig.Memory)" = $(($2 << 20)) ] || fail "the memory limit"
}
