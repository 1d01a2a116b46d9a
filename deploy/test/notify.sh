# Type=notify: READY=1 comes once requests are accepted, STOPPING=1 with the drain.
. "$(dirname "$0")/lib.sh"
plain_volumes "$own"
start_provider "$own/tls"
start "$own/told" python3 -u -c '
import socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
server.bind(sys.argv[1])
print("listening")
while True:
    print(server.recv(4096).decode())
' "$own/notify"
until_true 5 grep -q listening "$own/told" || fail "no socket"
start "$own/sidecar.log" env NOTIFY_SOCKET="$own/notify" "$TOKEN_VALET_STATIC_BIN" run
until_true 5 grep -q '^READY=1' "$own/told" || fail "no READY=1: $(tail -1 "$own/told")"
is_200 http://127.0.0.1:8080/accounts || fail "ready, and no answer"
kill "$pid"
until_true 5 grep -q '^STOPPING=1' "$own/told" || fail "no STOPPING=1: $(tail -1 "$own/told")"
echo "ran: READY=1 before the first answer, STOPPING=1 after SIGTERM: Type=notify can be set in the unit"
