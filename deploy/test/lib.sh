# Shell: what the steps share. Sourced by each; $WORK is the run's directory.
set -euo pipefail
here=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
deploy=$(dirname "$here")
own=$WORK/steps/$(basename "$0" .sh)
mkdir -p "$own"

fail() { echo "FAULT: $*"; exit 1; }

# Processes and containers of this step end with it.
started=() containers=()
end_all() {
  local pid id
  for id in "${containers[@]}"; do runc --root "$WORK/runc" delete --force "$id" 2>/dev/null || true; done
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
}
trap end_all EXIT

# start LOG COMMAND...: in the background; its process id is in $pid.
start() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 &
  pid=$!
  started+=("$pid")
}

# until_true SECONDS COMMAND...: tries it until it succeeds, every 50 ms.
until_true() {
  local end=$(($(date +%s%N) + $1 * 1000000000))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$(date +%s%N)" -lt $end ] || return 1
    sleep 0.05
  done
}

# expect TEXT COMMAND...: the command's output has the text.
expect() {
  local text=$1 output
  shift
  output=$("$@" 2>&1) || true
  case $output in *"$text"*) ;; *) fail "expected \"$text\" of: $*
$output" ;; esac
}

# An authority and the provider's certificate, in $1.
certificates() {
  local place=$1
  mkdir -p "$place"
  openssl ecparam -name prime256v1 -genkey -noout -out "$place/ca.key"
  openssl req -x509 -key "$place/ca.key" -out "$place/ca.pem" -days 60 -subj "/CN=test authority"
  openssl ecparam -name prime256v1 -genkey -noout -out "$place/provider.key"
  openssl req -new -key "$place/provider.key" -subj /CN=provider.test |
    openssl x509 -req -CA "$place/ca.pem" -CAkey "$place/ca.key" -CAcreateserial -days 59 -out "$place/provider.pem" \
      -extfile <(echo subjectAltName=DNS:provider.test,DNS:localhost)
} 2>/dev/null

# The imitation of the provider on port 8443 with the certificates in $1; $2 is how long its tokens live.
start_provider() {
  start "$1/provider.log" node "$here/provider.mjs" 8443 "$1/provider.key" "$1/provider.pem" "${2:-5}"
  until_true 10 grep -q listening "$1/provider.log" || fail "the provider does not start: $(cat "$1/provider.log")"
}

# A data recipient's configuration, with the paths that the bundle mounts.
recipient_config() {
  cat <<TOML
[upstream]
url = "https://$1:8443"
ca_file = "/etc/token-valet/ca.pem"
http = "auto"
[token]
url = "https://$1:8443/token"
grant = "refresh_token"
client_id = "client"
client_secret_file = "/run/secrets/token-valet/client_secret"
refresh_token_file = "/run/secrets/token-valet/refresh_token"
state_file = "/var/lib/token-valet/state.json"
ca_file = "/etc/token-valet/ca.pem"
[reload]
poll = "500ms"
[log]
access = "all"
TOML
}

# What a bundle mounts, in $1: etc, secrets, state. The certificates are in $2, the provider's name is $3, and $4 is
# what sed does to the configuration.
volumes() {
  local place=$1
  mkdir -p "$place/files/etc" "$place/files/secrets" "$place/etc" "$place/secrets" "$place/state"
  cp "$2/ca.pem" "$place/files/etc"
  recipient_config "$3" | sed "${4:-}" >"$place/files/etc/config.toml"
  echo secret >"$place/files/secrets/client_secret"
  echo first-refresh-token >"$place/files/secrets/refresh_token"
  write_volume "$place" etc 0444
  write_volume "$place" secrets 0440
  # As Kubernetes leaves a volume with an fsGroup: root's, and writable for the group.
  chown root:65532 "$place/state"
  chmod 2775 "$place/state"
  echo 127.0.0.1 localhost >"$place/hosts"
}

# write_volume VOLUMES NAME MODE: as the kubelet writes a ConfigMap or Secret, of what is in files/NAME. Each file is a
# link into ..data, which is a link to a directory, and is replaced at once.
write_volume() {
  local place=$1/$2 source=$1/files/$2 version old file
  old=$(readlink "$place/..data" || true)
  version=..$(date +%s%N)
  cp -r "$source" "$place/$version"
  chown -R root:65532 "$place/$version"
  chmod "$3" "$place/$version"/*
  ln -s "$version" "$place/..data_tmp"
  mv -T "$place/..data_tmp" "$place/..data"
  [ -z "$old" ] || rm -r "${place:?}/$old"
  for file in "$source"/*; do ln -sf "..data/$(basename "$file")" "$place"; done
}

# run_container ID BUNDLE: in the background by runc; its log is $own/ID.log.
run_container() {
  containers+=("$1")
  start "$own/$1.log" runc --root "$WORK/runc" run --bundle "$2" "$1"
}

status_of() { curl -s -o /dev/null -w '%{http_code}' "$@"; }
is_200() { [ "$(status_of "$@")" = 200 ]; }

# What a sidecar does in its life, but for its end: look-ups by UDP and TCP, TLS, both versions of HTTP, a large
# upload, a token that is rejected, a refresh, probes.
exercise() {
  until_true 10 is_200 http://127.0.0.1:9901/startupz || fail "no first token"
  expect '"http":"2.0"' curl -s http://127.0.0.1:8080/accounts
  expect '"http":"2.0"' curl -s --http2-prior-knowledge http://127.0.0.1:8080/accounts
  head -c 10000000 /dev/zero >"$own/upload"
  expect '"length":10000000' curl -s --data-binary "@$own/upload" http://127.0.0.1:8080/upload
  # A token was replaced, and the request sent again; the new one is no better.
  [ "$(status_of http://127.0.0.1:8080/rejected)" = 401 ] || fail "the API's rejection is not passed on"
  until_true 10 is_generation 4 || fail "the token is not refreshed"
  is_200 http://127.0.0.1:9901/livez || fail "it is not alive"
  is_200 http://127.0.0.1:9901/readyz || fail "it is not ready"
}
is_generation() { [ "$(curl -s http://127.0.0.1:9901/metrics | awk '/^token_valet_token_generation /{ print $2 }')" -ge "$1" ]; }

# What the program itself needs, without a container: $1/config.toml and what that names.
plain_volumes() {
  local place=$1
  certificates "$place/tls"
  mkdir -p "$place/state"
  cp "$place/tls/ca.pem" "$place"
  echo secret >"$place/client_secret"
  echo first-refresh-token >"$place/refresh_token"
  recipient_config localhost |
    sed "s|/etc/token-valet|$place|; s|/run/secrets/token-valet|$place|; s|/var/lib/token-valet|$place/state|" \
      >"$place/config.toml"
  export TOKEN_VALET_CONFIG=$place/config.toml
}

# The program itself, with a life that is eventful enough for every metric to have a value: an outage at first, a
# rejected token, a secret and a configuration that are replaced. In $1, which it fills. Its tokens live for 12 s.
eventful_sidecar() {
  local place=$1
  plain_volumes "$place"
  start "$place/sidecar.log" "$TOKEN_VALET_STATIC_BIN" run
  until_true 10 is_200 http://127.0.0.1:9901/livez || fail "it is not alive: $(cat "$place/sidecar.log")"
  [ "$(status_of http://127.0.0.1:8080/accounts)" = 503 ] || fail "an answer without a token"
  start_provider "$place/tls" 12
  provider=$pid
  until_true 20 is_200 http://127.0.0.1:9901/startupz || fail "no first token: $(cat "$place/sidecar.log")"
  is_200 http://127.0.0.1:8080/accounts || fail "no answer"
  is_200 --data-binary @"$place/config.toml" http://127.0.0.1:8080/accounts || fail "no answer"
  status_of http://127.0.0.1:8080/broken >"$place/broken"
  echo another-secret >"$place/client_secret"
  sed -i 's/^access = .*/access = "errors"/' "$place/config.toml"
  status_of http://127.0.0.1:8080/rejected >"$place/rejected"
}
