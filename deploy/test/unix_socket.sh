# listen.address = "unix:/path": for those alone who may open the file.
. "$(dirname "$0")/lib.sh"
plain_volumes "$own"
start_provider "$own/tls"
start "$own/sidecar.log" env TOKEN_VALET__LISTEN__ADDRESS="unix:$own/port" "$TOKEN_VALET_STATIC_BIN" run
until_true 5 is_200 --unix-socket "$own/port" http://localhost/accounts || fail "no answer: $(head -1 "$own/sidecar.log")"
[ "$(stat -c %a "$own/port")" = 660 ] || fail "its mode is $(stat -c %a "$own/port")"
echo "ran: an answer by a Unix socket of mode 0660"
