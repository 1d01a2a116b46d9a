# /metrics: OpenMetrics by its content type, and without a fault to promtool.
. "$(dirname "$0")/lib.sh"
eventful_sidecar "$own"
curl -s -D "$own/head" http://127.0.0.1:9901/metrics >"$own/metrics"
grep -qi '^content-type: application/openmetrics-text; version=1.0.0' "$own/head" || fail "$(cat "$own/head")"
[ "$(tail -c 6 "$own/metrics")" = "# EOF" ] || fail "the end is missing"

# promtool reads the older text format: the name of a counter or an info has its suffix, there is no type info, and
# there are no units.
awk '
  NR == FNR && /^# TYPE .* counter$/ { suffix[$3] = "_total" }
  NR == FNR && /^# TYPE .* info$/ { suffix[$3] = "_info" }
  NR == FNR || /^# UNIT / || /^# EOF/ { next }
  /^# (HELP|TYPE) / { $3 = $3 suffix[$3]; if (/^# TYPE/) sub(/ info$/, " gauge") }
  { print }' "$own/metrics" "$own/metrics" >"$own/text"
promtool check metrics <"$own/text" || fail "promtool finds faults"
# It does find them.
if printf '# HELP wrong Wrong.\n# TYPE wrong counter\nwrong 1\n' | promtool check metrics 2>/dev/null; then
  fail "promtool finds nothing wrong with a bad name"
fi
if grep -E 'secret|access-[0-9]|refresh-[0-9]' "$own/metrics" | grep -v 'secret_reloads'; then fail "a secret"; fi
echo "ran: promtool check metrics, no finding in $(grep -c '^# TYPE' "$own/metrics") metrics; a bad one has some"
