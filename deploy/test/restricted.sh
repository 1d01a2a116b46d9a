# The image's program by runc as a cluster would run it: uid 65532, no capabilities, no new privileges, a read-only
# root, and deploy/seccomp/token-valet.json. It does all of its work so, and ends in order.
. "$(dirname "$0")/lib.sh"
certificates "$own/tls"
start_provider "$own/tls"
start "$own/nameserver.log" python3 "$here/nameserver.py" 127.0.0.53
until_true 10 grep -q listening "$own/nameserver.log" || fail "the name server does not start"

volumes "$own/volumes" "$own/tls" provider.test
echo nameserver 127.0.0.53 >"$own/volumes/resolv.conf"
python3 "$here/bundle.py" "$own/bundle" "$own/volumes" --seccomp "$deploy/seccomp/token-valet.json"
run_container restricted "$own/bundle"
runner=$pid
exercise

inside=$(runc --root "$WORK/runc" ps --format json restricted | jq '.[0]')
for line in 'Uid:.65532.65532.65532.65532' 'CapEff:.0000000000000000' 'CapBnd:.0000000000000000' 'NoNewPrivs:.1' \
  'Seccomp:.2'; do
  grep -q "^$line" "/proc/$inside/status" || fail "not in /proc/PID/status: $line"
done
grep -q '^[^ ]* [^ ]* [^ ]* [^ ]* / ro' "/proc/$inside/mountinfo" || fail "the root can be written to"
[ "$(stat -c '%a %u' "$own/volumes/state/state.json")" = "600 65532" ] || fail "the state file is not its own"
[ "$(find "$own/volumes/state" -name '*.tmp' | wc -l)" = 0 ] || fail "a temporary file is left"

# A secret and a configuration that are replaced are found.
echo another-secret >"$own/volumes/files/secrets/client_secret"
write_volume "$own/volumes" secrets 0440
sed -i 's/^access = .*/access = "errors"/' "$own/volumes/files/etc/config.toml"
write_volume "$own/volumes" etc 0444
has_reloaded() { curl -s http://127.0.0.1:9901/metrics | grep -q "^token_valet_$1_reloads_total{result=\"success\"} 1"; }
for what in secret config; do
  until_true 10 has_reloaded $what || fail "the new $what is not found: $(tail -3 "$own/restricted.log")"
done

# A request is under way: it gets its answer, and then the process is gone.
curl -s http://127.0.0.1:8080/slow >"$own/slow" &
slow=$!
sleep 0.3
runc --root "$WORK/runc" kill restricted TERM
wait "$slow"
grep -q slow "$own/slow" || fail "the request under way was cut off"
code=0
wait "$runner" || code=$?
[ "$code" = 0 ] || fail "exit code $code: $(cat "$own/restricted.log")"
if grep -E '"level":"(ERROR|WARN)"' "$own/restricted.log" | grep -v 'rejects fresh access tokens'; then fail "see the log"; fi
echo "ran: names by DNS, TLS, HTTP/1.1 and 2, 10 MB up, rejection, refresh, new secret and config, state file, drain; uid 65532, no rights"
