# Nothing of the builder's environment and nothing that lies about in its directory gets into the image.
. "$(dirname "$0")/lib.sh"
. "$here/build.sh"
canary=canary-$(openssl rand -hex 12)

# found PLACE: whether the canary is in any blob of the image, as it is or unpacked.
found() {
  local blob
  for blob in "$1"/layout/blobs/sha256/*; do
    if grep -aq "$canary" "$blob" || { gzip -dc "$blob" 2>/dev/null || true; } | grep -aq "$canary"; then return 0; fi
  done
  return 1
}

plant() {
  mkdir -p "$1/.git" "$1/config"
  for name in client_secret .env .git/config config/token-valet.toml; do echo "$canary" >"$1/$name"; done
}

plant "$own/context"
TOKEN_VALET__TOKEN__CLIENT_SECRET=$canary build "$own/clean" "$own/context" canary:clean
[ "$(cat "$own/clean/id")" = "$(cat "$WORK/image/id")" ] || fail "the surroundings change the image"
if found "$own/clean"; then fail "the canary is in the image"; fi

# The search does find one: in a file of the image, and in its configuration.
plant "$own/dirty-context"
build "$own/dirty" "$own/dirty-context" canary:dirty
printf 'FROM canary:dirty\nCOPY client_secret /client_secret\n' >"$own/with-file"
printf 'FROM canary:dirty\nENV SECRET=%s\n' "$canary" >"$own/with-variable"
for kind in with-file with-variable; do
  buildah_in "$own/dirty" bud --isolation chroot --quiet --pull-never --file "$own/$kind" --tag "$kind" "$own/dirty-context"
  mkdir "$own/$kind.d"
  buildah_in "$own/dirty" push --quiet "$kind" "oci:$own/$kind.d/layout"
  found "$own/$kind.d" || fail "the search does not find a canary that is there ($kind)"
done
echo "ran: a secret in the environment and 4 files is not in the image; planted on purpose it is found, twice"
