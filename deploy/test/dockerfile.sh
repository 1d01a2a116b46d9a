# The Dockerfile by hadolint, without an exception.
. "$(dirname "$0")/lib.sh"
hadolint "$deploy/Dockerfile"
# It does find things.
if printf 'FROM debian\nRUN cd /tmp\n' | hadolint - >/dev/null; then fail "hadolint finds nothing wrong with a bad file"; fi
echo "ran: $(hadolint --version | cut -d' ' -f4) hadolint, no finding; a bad file has some"
