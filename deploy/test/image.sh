# The image, twice: one ID. The first stage's result is given, as no registry may be in reach; deploy/static-binary,
# which is all that stage runs, made it. Leaves $WORK/image: layout/, config.json, rootfs/, id.
. "$(dirname "$0")/lib.sh"
. "$here/build.sh"

ldd "$TOKEN_VALET_STATIC_BIN" 2>&1 | grep -q 'statically linked' || fail "the program is not static"
ids=()
for nth in 1 2; do
  # Other times, another place.
  build "$own/$nth" "$own/context-$nth" "token-valet:test"
  ids+=("$(cat "$own/$nth/id")")
done
[ "${ids[0]}" = "${ids[1]}" ] || fail "two builds, two images: ${ids[*]}"

mkdir "$WORK/image"
cp -r "$own/2/layout" "$own/2/id" "$WORK/image"
unpack "$WORK/image"
[ "$(cd "$WORK/image/rootfs" && find . -type f)" = ./token-valet ] || fail "there is more in it than the program"
[ "$(stat -c '%a %u %g' "$WORK/image/rootfs/token-valet")" = "755 0 0" ] || fail "the program is not root's alone"
cmp "$WORK/image/rootfs/token-valet" "$TOKEN_VALET_STATIC_BIN"
jq -e '.config | .User == "65532:65532" and .Entrypoint == ["/token-valet"] and .Cmd == ["run"]' \
  "$WORK/image/config.json" >/dev/null || fail "the image's configuration: $(cat "$WORK/image/config.json")"
size=$(stat -c %s "$WORK/image/rootfs/token-valet")
[ "$size" -lt 8000000 ] || fail "$size bytes are too many"
packed=$(find "$WORK/image/layout" -type f -printf '%s\n' | awk '{ all += $1 } END { print all }')
echo "ran: 2 builds by buildah, both ${ids[0]}; $size bytes, $packed compressed; one file"
