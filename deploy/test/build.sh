# Shell: how the steps build the image. Sourced after lib.sh.

# buildah with a storage of its own in $1.
buildah_in() {
  local place=$1
  shift
  buildah --root "$place/root" --runroot "$place/run" "$@"
}

# build PLACE CONTEXT TAG [OPTION...]: the last stage of the Dockerfile. Leaves PLACE/id and PLACE/layout.
build() {
  local place=$1 context=$2 tag=$3
  shift 3
  mkdir -p "$place/stage/out" "$context/deploy"
  cp "$TOKEN_VALET_STATIC_BIN" "$place/stage/out/token-valet"
  cp "$deploy/Dockerfile" "$deploy/Dockerfile.dockerignore" "$context/deploy"
  buildah_in "$place" bud --isolation chroot --timestamp 0 --build-context "build=$place/stage" --quiet \
    --iidfile "$place/id" "$@" --file "$context/deploy/Dockerfile" --tag "$tag" "$context"
  buildah_in "$place" push --quiet --disable-compression=false "$tag" "oci:$place/layout"
}

# unpack PLACE: what is in PLACE/layout becomes PLACE/config.json and PLACE/rootfs.
unpack() {
  local place=$1 blobs=$1/layout/blobs/sha256 manifest layer
  manifest=$(jq -r '.manifests[0].digest | ltrimstr("sha256:")' "$place/layout/index.json")
  cp "$blobs/$(jq -r '.config.digest | ltrimstr("sha256:")' "$blobs/$manifest")" "$place/config.json"
  mkdir "$place/rootfs"
  for layer in $(jq -r '.layers[].digest | ltrimstr("sha256:")' "$blobs/$manifest"); do
    tar --extract --auto-compress --file "$blobs/$layer" --directory "$place/rootfs" --same-owner 2>/dev/null ||
      tar --extract --gzip --file "$blobs/$layer" --directory "$place/rootfs" --same-owner
  done
}
