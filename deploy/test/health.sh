# `token-valet health`, for what has no curl: 1 while there is no token, 0 once there is.
. "$(dirname "$0")/lib.sh"
plain_volumes "$own"
start "$own/sidecar.log" "$TOKEN_VALET_STATIC_BIN" run
until_true 5 "$TOKEN_VALET_STATIC_BIN" health live || fail "$("$TOKEN_VALET_STATIC_BIN" health live 2>&1 | head -1)"
if "$TOKEN_VALET_STATIC_BIN" health startup; then fail "started without a token"; fi
start_provider "$own/tls"
until_true 10 "$TOKEN_VALET_STATIC_BIN" health startup || fail "not started with a token"
echo "ran: health live, startup: 1 without a token, 0 with one"
