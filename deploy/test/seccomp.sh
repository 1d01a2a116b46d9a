# The profile permits what the program does, by strace, and refuses what others may do.
. "$(dirname "$0")/lib.sh"
profile=$deploy/seccomp/token-valet.json

# 1. Everything that the program calls in its life is in the profile: a call that is refused and whose failure is
#    swallowed would be seen nowhere else.
plain_volumes "$own"
start_provider "$own/tls"
start "$own/traced.log" strace --follow-forks --output "$own/trace" --string-limit 1 \
  "$TOKEN_VALET_STATIC_BIN" run
exercise
traced=$(awk '/execve/ { print $1; exit }' "$own/trace")
kill -TERM "$traced"
wait "$pid"
sed -nE 's/^[0-9]+ +([a-z0-9_]+)\(.*/\1/p' "$own/trace" | sort -u >"$own/called"
jq -r '.syscalls[] | select(.action == "SCMP_ACT_ALLOW" or .errnoRet == 38) | .names[]' "$profile" | sort -u >"$own/permitted"
missing=$(comm -23 "$own/called" "$own/permitted")
[ -z "$missing" ] || fail "called and not in the profile: $missing"
[ "$(wc -l <"$own/called")" -gt 40 ] || fail "strace saw too little: $(cat "$own/called")"

# The filter of the systemd unit permits them as well; it does refuse others.
python3 "$here/unit_filter.py" "$deploy/systemd/token-valet.service" <"$own/called"
if echo mount | python3 "$here/unit_filter.py" "$deploy/systemd/token-valet.service"; then fail "the unit permits mount"; fi

# 2. Of what nobody needs rights for, nothing else goes.
mkdir "$own/rootfs"
gcc -static -O1 -o "$own/rootfs/token-valet" "$here/forbidden.c"
volumes "$own/volumes" "$own/tls" localhost
mkdir -p "$own"/rootfs/{proc,dev,etc/token-valet,run/secrets/token-valet,var/lib/token-valet}
for with in without under; do
  option=()
  [ $with = without ] || option=(--seccomp "$profile")
  python3 "$here/bundle.py" "$own/$with" "$own/volumes" --rootfs "$own/rootfs" "${option[@]}"
  containers+=("$with")
  runc --root "$WORK/runc" run --bundle "$own/$with" "$with" >"$own/$with.out"
done
echo "without the profile:" $(cat "$own/without.out")
echo "under the profile:" $(cat "$own/under.out")
if grep -q ' 1$' "$own/without.out"; then fail "refused without the profile too: it shows nothing"; fi
if grep -v ' 1$' "$own/under.out"; then fail "not refused"; fi
echo "ran: all $(wc -l <"$own/called") calls of a run are permitted, by the unit too; $(wc -l <"$own/under.out") others, open to all without it, are refused"
