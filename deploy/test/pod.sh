# A real pod: the overlay "classic" by `podman kube play`, with its Secret, its ConfigMap and its security context.
. "$(dirname "$0")/lib.sh"
. "$here/build.sh"
. "$here/podman.sh"
build_application localhost/app:test
tar --create --file "$own/image.tar" --directory "$WORK/image/layout" .
podman load --quiet --input "$own/image.tar"
podman tag "$(cut -d: -f2 "$WORK/image/id")" localhost/token-valet:test

certificates "$own/tls"
python3 "$here/playable.py" "$deploy/kustomize/overlays/classic" "$own/tls/ca.pem" >"$own/pod.yaml"
trap 'take_down legacy-app-pod-0; end_all' EXIT
podman kube play --network none "$own/pod.yaml"
sidecar=legacy-app-pod-0-token-valet app=legacy-app-pod-0-app

# The provider comes up later.
inside=$(of $sidecar State.Pid)
until_true 10 grep -q 'Connection refused' <(podman logs --follow $sidecar 2>&1) || fail "it does not ask for a token"
start_provider_inside "$inside"
has_answers() { [ "$(podman logs $app 2>&1 | grep -o '"http"' | wc -l)" -ge "$1" ]; }
until_true 20 has_answers 3 || fail "the application gets no answers: $(podman logs $app $sidecar 2>&1)"
for probe in startupz livez readyz; do
  nsenter --net="/proc/$inside/ns/net" curl -s -f "http://127.0.0.1:9901/$probe" || fail "$probe"
done

check_restriction $sidecar 128
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
