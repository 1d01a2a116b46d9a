"""The alerts: valid, the same for the operator, and each with a case that fires and one that does not."""

import pathlib
import subprocess
import sys
import tempfile
from multiprocessing.pool import ThreadPool

import yaml

DEPLOY = pathlib.Path(__file__).parent.parent
PROMETHEUS = DEPLOY / "prometheus"
RULES = PROMETHEUS / "rules.yaml"
TEST = PROMETHEUS / "rules_test.yaml"
OPERATOR = DEPLOY / "kustomize/monitoring/prometheus-rule.yaml"


def promtool(*arguments):
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True)


def fails_without(rules, alert):
    """Whether the test notices that an alert is missing; if not, it has no case in which it fires."""
    kept = [rule for rule in rules if rule["alert"] != alert]
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        (place / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "token-valet", "rules": kept}]}))
        (place / TEST.name).write_text(TEST.read_text())
        return promtool("test", "rules", str(place / TEST.name)).returncode != 0


def main():
    made = subprocess.run([PROMETHEUS / "as-prometheus-rule"], capture_output=True, text=True, check=True).stdout
    if made != OPERATOR.read_text():
        sys.exit(f"{OPERATOR} is not what deploy/prometheus/as-prometheus-rule makes")
    document = yaml.safe_load(RULES.read_text())
    if yaml.safe_load(made)["spec"] != document:
        sys.exit("deploy/prometheus/as-prometheus-rule changes the rules")
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(TEST)]):
        done = promtool(*command)
        print(done.stdout, done.stderr)
        if done.returncode:
            sys.exit(f"promtool {' '.join(command)} fails")
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    for rule in rules:
        if {"summary", "action"} - rule["annotations"].keys() or "severity" not in rule["labels"]:
            sys.exit(f"{rule['alert']} does not say what is wrong, what to do, or how bad it is")
    alerts = [rule["alert"] for rule in rules]
    with ThreadPool() as pool:
        noticed = pool.map(lambda alert: fails_without(rules, alert), alerts)
    if idle := [alert for alert, is_noticed in zip(alerts, noticed) if not is_noticed]:
        sys.exit(f"no case in which they fire: {idle}")
    tests = yaml.safe_load(TEST.read_text())["tests"]
    print(f"ran: {len(rules)} alerts, {len(tests)} tests; without any one of the alerts they fail")


main()
