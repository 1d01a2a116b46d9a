# Type=notify: READY=1 comes with the first token, WATCHDOG=1 as often as the unit wants, STOPPING=1 with the drain.
. "$(dirname "$0")/lib.sh"
plain_volumes "$own"
start "$own/told" python3 -u -c '
import socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
server.bind(sys.argv[1])
print("listening")
while True:
    print(server.recv(4096).decode())
' "$own/notify"
until_true 5 grep -q listening "$own/told" || fail "no socket"
start "$own/sidecar.log" env NOTIFY_SOCKET="$own/notify" WATCHDOG_USEC=500000 "$TOKEN_VALET_STATIC_BIN" run
sidecar=$pid
until_true 5 grep -q '^STATUS=' "$own/told" || fail "nothing is told"
if grep -q '^READY=1' "$own/told"; then fail "ready without a token"; fi
start_provider "$own/tls"
until_true 10 grep -q '^READY=1' "$own/told" || fail "no READY=1: $(tail -1 "$own/told")"
is_200 http://127.0.0.1:8080/accounts || fail "ready, and no answer"
until_true 5 grep -q '^WATCHDOG=1' "$own/told" || fail "no WATCHDOG=1: $(tail -1 "$own/told")"
kill "$sidecar"
until_true 5 grep -q '^STOPPING=1' "$own/told" || fail "no STOPPING=1: $(tail -1 "$own/told")"
# What relies on it.
for line in Type=notify TimeoutStartSec=infinity WatchdogSec=; do
  grep -q "^$line" "$deploy/systemd/token-valet.service" || fail "the unit has no $line"
done
echo "ran: READY=1 with the first token and not before, WATCHDOG=1, STOPPING=1 after SIGTERM"
