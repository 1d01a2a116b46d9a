# A Job without a sidecar: the pod of the overlay "classic-job" by `podman kube play`, with its own command, then with one
# that fails. Each time it ends by itself, and its exit code is the command's.
. "$(dirname "$0")/lib.sh"
. "$here/build.sh"
. "$here/podman.sh"
# The last line is the overlay's, in the job's own Dockerfile.
mkdir "$own/app-context"
cp "$WORK/image/rootfs/token-valet" "$own/app-context"
build_application localhost/report:test 'COPY busybox /bin/wget' 'COPY token-valet /token-valet'

certificates "$own/tls"
pod=legacy-report
job=$pod-report
trap 'take_down $pod; end_all' EXIT
is_ended() { [ "$(of $job State.Status)" = exited ]; }
has_child() { grep -q "^PPid:.$1\$" /proc/[0-9]*/status; }

# play CODE [ARGUMENT...]: the pod's life, which ends with the code. The arguments are another command.
play() {
  local code=$1 inside
  shift
  python3 "$here/playable.py" "$deploy/kustomize/overlays/classic-job" "$own/tls/ca.pem" "$@" >"$own/pod.yaml"
  podman kube play --network none "$own/pod.yaml"
  inside=$(of $job State.Pid)
  until_true 10 grep -q 'Connection refused' <(podman logs --follow $job 2>&1) || fail "it does not ask for a token"
  ! has_child "$inside" || fail "the command does not wait for the first token"
  check_restriction $job 160

  # The provider comes up later. Nobody tells the container to end.
  start_provider_inside "$inside"
  until_true 30 is_ended || fail "it does not end: $(podman logs $job 2>&1)"
  [ "$(of $job State.ExitCode)" = "$code" ] || fail "exit code $(of $job State.ExitCode): $(podman logs $job 2>&1)"
  [ "$(podman logs $job 2>/dev/null | grep -c '"http"')" = 1 ] || fail "the command has no answer: $(podman logs $job 2>&1)"
  [ "$(of $job RestartCount)" = 0 ] || fail "it was restarted"
  [ "$(of $job State.OOMKilled)" = false ] || fail "out of memory"
  kill "$pid"
  take_down $pod
}
play 0
play 7 sh -c 'wget -qO- http://127.0.0.1:8080/api/fdx/5/accounts; exit 7'
echo "ran: podman $(podman version --format '{{.Client.Version}}'), overlay classic-job: provider down, then the answer; restricted; ends by itself with 0, and with 7"
