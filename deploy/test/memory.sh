# The manifest's memory limit, for real: 64 uploads of 10 MB at once, to an API that takes them slowly.
. "$(dirname "$0")/lib.sh"
certificates "$own/tls"
start_provider "$own/tls"
# One connection each: over HTTP/2 all of them would share one's window.
volumes "$own/volumes" "$own/tls" localhost 's/^http = .*//; s/^access = .*/access = "errors"/'
python3 "$here/bundle.py" "$own/bundle" "$own/volumes" --memory
run_container memory "$own/bundle"
until_true 10 is_200 http://127.0.0.1:9901/startupz || fail "no first token: $(cat "$own/memory.log")"

stats() { runc --root "$WORK/runc" events --stats memory | jq -e "$1"; }
if ! limit=$(stats .data.memory.usage.limit) || [ "$limit" -gt 1000000000 ]; then
  echo "no memory limit is in force: this kernel has no memory controller for runc"
  exit 75
fi
head -c 10000000 /dev/zero >"$own/upload"
sent=$(seq 64 | xargs -P 64 -I{} curl -s --data-binary "@$own/upload" "http://127.0.0.1:8080/slow?{}" | grep -o slow | wc -l)
[ "$sent" = 64 ] || fail "$sent of 64 uploads got through: $(tail -3 "$own/memory.log")"
is_200 http://127.0.0.1:9901/livez || fail "it is not alive"
[ "$(stats .data.memory.usage.failcnt)" = 0 ] || fail "the limit was reached"
echo "ran: 64 uploads of 10 MB at once within the $((limit >> 20)) MiB of the manifest, at most $(($(stats .data.memory.usage.max) >> 20)) MiB"
