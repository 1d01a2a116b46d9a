# The dashboard's panels and the alerts' rules before a real Prometheus that scrapes the running program.
. "$(dirname "$0")/lib.sh"
cat >"$own/prometheus.yaml" <<YAML
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [$deploy/prometheus/rules.yaml]
scrape_configs:
  - job_name: token-valet
    static_configs: [{targets: ["127.0.0.1:9901"]}]
YAML
promtool check config "$own/prometheus.yaml"
start "$own/prometheus.log" prometheus --config.file "$own/prometheus.yaml" --storage.tsdb.path "$own/data" \
  --web.listen-address 127.0.0.1:9090 --log.level warn
until_true 30 is_200 http://127.0.0.1:9090/-/ready || fail "Prometheus does not start: $(cat "$own/prometheus.log")"
eventful_sidecar "$own"
python3 "$here/panels.py" http://127.0.0.1:9090 "$own/ran"

# The provider goes, and the real alerts wake up: that of a token that ends, and, once it has ended, the next one.
kill "$provider"
killed=$(date +%s)
# Also if it came and went between two looks, but not if it was before: there was no token at the start.
alert() {
  curl -s http://127.0.0.1:9090/api/v1/query \
    --data-urlencode "query=max_over_time(ALERTS{alertname=\"$1\"}[$(($(date +%s) - killed + 1))s])" |
    jq -e '.data.result[]'
}
until_true 20 alert TokenValetTokenEnding || fail "no alert of a token that is about to end"
until_true 20 alert TokenValetNoToken || fail "no alert of a token that has ended"
echo "ran: $(cat "$own/ran"); 2 alerts after the provider's end"
