# The life of a pod with a native sidecar, played with runc in the kubelet's order: sidecar, startup probe,
# application, its end, SIGTERM, and 2 s to go. The provider is down at first.
. "$(dirname "$0")/lib.sh"
certificates "$own/tls"
volumes "$own/volumes" "$own/tls" localhost
python3 "$here/bundle.py" "$own/sidecar" "$own/volumes" --seccomp "$deploy/seccomp/token-valet.json"

run_container sidecar "$own/sidecar"
sidecar=$pid
until_true 5 is_200 http://127.0.0.1:9901/livez || fail "it is not alive: $(cat "$own/sidecar.log")"
sleep 1
[ "$(status_of http://127.0.0.1:9901/startupz)" = 503 ] || fail "it says that it has started without a token"
start_provider "$own/tls"
provided=$(date +%s%N)
until_true 20 is_200 http://127.0.0.1:9901/startupz || fail "no first token: $(cat "$own/sidecar.log")"
waited=$((($(date +%s%N) - provided) / 1000000))

# The application: one request after the other, each of which must get its answer, and the end.
app=$own/app
mkdir -p "$app/rootfs/bin" "$app/rootfs/proc"
cp "$(command -v busybox)" "$app/rootfs/bin"
jq '.root = { path: "rootfs", readonly: true } | .mounts |= .[:2] | del(.linux.seccomp)
  | .process.args = ["/bin/busybox", "sh", "-c", "for n in $(/bin/busybox seq 20); do /bin/busybox wget -qO- http://127.0.0.1:8080/$n || exit 9; echo; done"]' \
  "$own/sidecar/config.json" >"$app/config.json"
containers+=(app)
runc --root "$WORK/runc" run --bundle "$app" app >"$own/app.out" </dev/null || fail "the application fails: $(cat "$own/app.out")"
[ "$(grep -c '"http"' "$own/app.out")" = 20 ] || fail "not every request has an answer: $(cat "$own/app.out")"

ended=$(date +%s%N)
runc --root "$WORK/runc" kill sidecar TERM
code=0
wait "$sidecar" || code=$?
took=$((($(date +%s%N) - ended) / 1000000))
[ "$code" = 0 ] || fail "exit code $code: $(cat "$own/sidecar.log")"
[ $took -lt 2000 ] || fail "it took $took ms to end"
echo "ran: 503 while the provider was down, first token $waited ms after it came, 20 requests, exit 0 after $took ms"
