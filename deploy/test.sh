#!/usr/bin/env bash
# Tests all of deploy/ for real, as far as that goes without a cluster: builds the image, runs it restricted, plays a
# pod's life, and holds every manifest, alert and panel against the program. Needs root, Debian, and Rust with
# cargo-auditable; what else is missing is installed.
#
#   deploy/test.sh            everything
#   deploy/test.sh NAME...    these steps of deploy/test/steps, and those that make what they use
#
# TOKEN_VALET_STATIC_BIN names a program that deploy/static-binary built before.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(realpath -m "${TOKEN_VALET_DEPLOY_TOOLS:-target/deploy-tools}")

install_tools() {
  local missing=() pair
  # program:package
  for pair in buildah:buildah runc:runc podman:podman conmon:conmon catatonit:catatonit promtool:prometheus prometheus:prometheus \
    systemd-analyze:systemd ip:iproute2 nsenter:util-linux openssl:openssl jq:jq gcc:gcc curl:curl \
    strace:strace busybox:busybox-static node:nodejs; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  [ -f /usr/lib/x86_64-linux-gnu/libc.a ] || [ -f /usr/lib/aarch64-linux-gnu/libc.a ] || missing+=(libc6-dev)
  if [ ${#missing[@]} -gt 0 ]; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
  fi
  # Debian's is too old for components.
  command -v kubectl >/dev/null || { echo "kubectl 1.27 or later must be installed"; exit 1; }
  if [ ! -x "$tools/bin/kubernetes-validate" ] || ! cmp -s deploy/test/requirements.txt "$tools/requirements.txt"; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install -q --disable-pip-version-check -r deploy/test/requirements.txt
    cp deploy/test/requirements.txt "$tools/requirements.txt"
  fi
}

if [ -z "${TOKEN_VALET_DEPLOY_INSIDE:-}" ]; then
  install_tools >&2
  TOKEN_VALET_STATIC_BIN=$(realpath "${TOKEN_VALET_STATIC_BIN:-$(deploy/static-binary)}")
  export TOKEN_VALET_STATIC_BIN TOKEN_VALET_DEPLOY_INSIDE=1
  # A network, mounts and processes of its own: no port is taken, nothing is reached outside, and whatever is left
  # running ends with it.
  exec unshare --net --mount --pid --fork --kill-child --mount-proc "$PWD/deploy/test.sh" "$@"
fi

ip link set lo up
WORK=$(mktemp -d /tmp/token-valet-deploy.XXXXXX)
clean_up() {
  awk -v work="$WORK/" 'index($2, work) == 1 { print $2 }' /proc/mounts | tac | xargs -r umount -l
  rm -rf "$WORK"
}
trap clean_up EXIT
export WORK STORAGE_DRIVER=vfs PATH="$tools/bin:$PATH"
mkdir "$WORK/log"

# Exit codes of a step, beside 0: cannot be done on this machine.
IMPOSSIBLE=75
rows=() failed=0 impossible=0

note() { rows+=("$1|$2|$3"); printf '== %-20s %-12s %s\n' "$1" "$2" "$3"; }

run_step() {
  local name=$1 script log=$WORK/log/$1 code=0 ran start=$SECONDS
  script=$(find deploy/test -name "$name.sh" -o -name "$name.py")
  if [ -z "$script" ]; then note "$name" FAILED "there is no deploy/test/$name"; failed=$((failed + 1)); return; fi
  case $script in *.py) set -- python3 "$script" ;; *) set -- bash "$script" ;; esac
  timeout --kill-after=5 120 "$@" </dev/null >"$log" 2>&1 || code=$?
  # The step's own words: its last line that begins with "ran: ". Without it, it did not run to its end.
  ran=$(sed -n 's/^ran: //p' "$log" | tail -1)
  if [ "$code" = 0 ] && [ -z "$ran" ]; then code=1; fi
  case $code in
  0) note "$name" "ok $((SECONDS - start)) s" "$ran" ;;
  "$IMPOSSIBLE")
    note "$name" "NOT RUN" "$(tail -1 "$log" | cut -c1-150)"; impossible=$((impossible + 1)) ;;
  *)
    sed "s/^/   $name: /" "$log"
    note "$name" FAILED "exit code $code, see above"; failed=$((failed + 1)) ;;
  esac
}

mapfile -t steps < <(grep -v '^#' deploy/test/steps)
# The image is what others use.
is_wanted() { [ $# = 1 ] || [ "$1" = image ] || printf '%s\n' "${@:2}" | grep -qx "$1"; }
for name in "${steps[@]}"; do
  if is_wanted "$name" "$@"; then run_step "$name"; fi
done

printf '\n%-20s %-12s %s\n' STEP RESULT WHAT
for row in "${rows[@]}"; do IFS='|' read -r name result what <<<"$row"; printf '%-20s %-12s %s\n' "$name" "$result" "$what"; done
printf '\n%d steps: %d failed, %d could not run here. %d s.\n' ${#rows[@]} $failed $impossible $SECONDS
if [ $# = 0 ] && [ ${#rows[@]} != "$(grep -vc '^#' deploy/test/steps)" ]; then
  echo "not every step was tried"
  exit 1
fi
# A step that could not run is a failure too: nothing passes because something was missing.
[ $((failed + impossible)) = 0 ]
