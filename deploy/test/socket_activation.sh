# systemd/token-valet.socket: a connection that came before the program is served by it.
. "$(dirname "$0")/lib.sh"
plain_volumes "$own"
start_provider "$own/tls"
export TOKEN_VALET__LISTEN__ADDRESS=systemd:token-valet
name=$(sed -n 's/^FileDescriptorName=//p' "$deploy/systemd/token-valet.socket")
listen=$(sed -n 's/^ListenStream=//p' "$deploy/systemd/token-valet.socket")
start "$own/sidecar.log" systemd-socket-activate --listen="$listen" --fdname="$name" \
  --setenv=TOKEN_VALET_CONFIG --setenv=TOKEN_VALET__LISTEN__ADDRESS "$TOKEN_VALET_STATIC_BIN" run
until_true 5 grep -q Listening "$own/sidecar.log" || fail "systemd-socket-activate does not start"
until_true 5 is_200 "http://$listen/accounts" || fail "no answer: $(tail -1 "$own/sidecar.log")"
echo "ran: systemd-socket-activate, the first request starts the program and is answered by it"
