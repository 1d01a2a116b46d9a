"""Asks a Prometheus for what each panel of the dashboard and each rule asks for.

Every expression must parse, ask for metrics that the program has, and give data. Usage: panels.py PROMETHEUS RESULT
"""

import json
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

DEPLOY = pathlib.Path(__file__).parent.parent
SERVER, RESULT = sys.argv[1:]
# What belongs to a histogram or a counter, and not to its name.
SUFFIXES = re.compile(r"_(bucket|sum|count)$")


def ask(path, **parameters):
    query = urllib.parse.urlencode(parameters)
    try:
        with urllib.request.urlopen(f"{SERVER}/api/v1/{path}?{query}") as response:
            return json.load(response)["data"]
    except urllib.error.HTTPError as error:
        sys.exit(f"FAULT: {parameters}: {json.load(error)['error']}")


def expressions():
    dashboard = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            # As Grafana fills them in with everything chosen.
            filled = target["expr"].replace("$__rate_interval", "10s").replace("$job", ".*").replace("$instance", ".*")
            assert "$" not in filled, filled
            yield panel["title"], filled


def check_places():
    """That no panel covers another, and that none goes over the edge, which is at 24."""
    panels = json.loads((DEPLOY / "grafana/dashboard.json").read_text())["panels"]
    taken, ids = set(), [panel["id"] for panel in panels]
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        if cells & taken or any(x >= 24 for x, _ in cells):
            sys.exit(f"FAULT: {panel['title']} is in the way")
        taken |= cells
    if len(set(ids)) != len(ids):
        sys.exit("FAULT: panels with the same id")


def metrics_of(expression):
    names = re.findall(r"\b(?:token_valet|process)_\w+", re.sub(r'"[^"]*"', "", expression))
    return {SUFFIXES.sub("", name) for name in names}


def until(has_come, what):
    end = time.monotonic() + 20
    while not has_come():
        if time.monotonic() > end:
            sys.exit(f"FAULT: {what}")
        time.sleep(0.25)


def main():
    # Rates need several scrapes since the last event.
    until(lambda: ask("query", query="token_valet_token_rejections_total offset 5s")["result"], "nothing is scraped")
    exist = {SUFFIXES.sub("", name) for name in ask("label/__name__/values")}
    panels, rules = list(expressions()), [
        rule for group in yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())["groups"] for rule in group["rules"]
    ]
    used = set().union(*(metrics_of(expression) for _, expression in panels), *(metrics_of(rule["expr"]) for rule in rules))
    if unknown := used - exist:
        sys.exit(f"FAULT: not in the program: {sorted(unknown)}")

    with_data, missing = 0, []
    for title, expression in panels:
        if ask("query", query=expression)["result"]:
            with_data += 1
        else:
            missing.append(f"{title}: {expression}")
    if missing:
        sys.exit("FAULT: no data:\n" + "\n".join(missing))

    states = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
    if sick := [rule["name"] for rule in states if rule["health"] != "ok"]:
        sys.exit(f"FAULT: rules that cannot be evaluated: {sick}")
    check_places()
    titles = {title for title, _ in panels}
    pathlib.Path(RESULT).write_text(
        f"{len(titles)} panels, {len(panels)} expressions parse, {with_data} have data; "
        f"{len(states)} rules evaluated"
    )


main()
