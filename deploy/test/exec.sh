# `token-valet exec`, for Jobs of clusters without native sidecars: the command has a token, and its exit code is ours.
. "$(dirname "$0")/lib.sh"
plain_volumes "$own"
start_provider "$own/tls"
code=0
"$TOKEN_VALET_STATIC_BIN" exec -- sh -c 'curl -s http://127.0.0.1:8080/accounts; exit 7' >"$own/out" 2>"$own/log" || code=$?
[ $code = 7 ] || fail "exit code $code: $(head -1 "$own/log")"
grep -q '"http"' "$own/out" || fail "the command has no answer"
echo "ran: exec, the command's answer and its exit code"
