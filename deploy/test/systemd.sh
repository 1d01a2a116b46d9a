# The units: no fault, and an exposure of 2.0 at most, by systemd-analyze.
. "$(dirname "$0")/lib.sh"
# Where it is installed there is nothing yet.
sed "s|^ExecStart=/usr/bin/token-valet|ExecStart=\"$TOKEN_VALET_STATIC_BIN\"|" "$deploy/systemd/token-valet.service" \
  >"$own/token-valet.service"
cp "$deploy/systemd/token-valet.socket" "$own"
# What it says is a fault of a unit, also if it exits with 0.
verify() { systemd-analyze verify --man=no "$@" 2>&1 || echo "exit code $?"; }
said=$(verify "$own/token-valet.service" "$own/token-valet.socket")
[ -z "$said" ] || fail "$said"
mkdir "$own/faulty"
sed 's/^Restart=.*/Restart=sometimes/' "$own/token-valet.service" >"$own/faulty/token-valet.service"
[ -n "$(verify "$own/faulty/token-valet.service")" ] || fail "verify finds nothing wrong with a faulty unit"

report=$(systemd-analyze security --offline=true --no-pager --threshold=20 "$own/token-valet.service") || fail "$report"
exposure=$(sed -n 's/.*exposure level for [^:]*: \([0-9.]*\).*/\1/p' <<<"$report")
[ -n "$exposure" ] || fail "$report"
# The threshold is one.
grep -v -E '^(Private|Protect|Restrict|SystemCall)' "$own/token-valet.service" >"$own/open.service"
if systemd-analyze security --offline=true --no-pager --threshold=20 "$own/open.service" >"$own/open"; then
  fail "an open service passes"
fi
# The file is root's and not read by the service: credentials are.
grep -q '^LoadCredential=client_secret:' "$own/token-valet.service" || fail "no LoadCredential"
echo "ran: systemd-analyze verify, no finding; exposure $exposure, at most 2.0; an open unit does not pass"
