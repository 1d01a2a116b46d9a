"""Whether SystemCallFilter= of a unit permits each of the calls on standard input. Usage: unit_filter.py UNIT"""

import functools
import re
import subprocess
import sys


@functools.cache
def calls_of(group):
    shown = subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager", group], capture_output=True, text=True)
    names = re.findall(r"^ +(@?[a-z0-9_-]+)$", shown.stdout, re.MULTILINE)
    return frozenset().union(*(calls_of(name) if name.startswith("@") else {name} for name in names))


def permitted(unit):
    allowed = set()
    # In their order, as systemd.exec(5) has it: the first one is a list of what is allowed.
    for refusal, names in re.findall(r"^SystemCallFilter=(~?)(.*)$", open(unit).read(), re.MULTILINE):
        for name in names.split():
            calls = calls_of(name) if name.startswith("@") else {name}
            allowed = allowed - calls if refusal else allowed | calls
    return allowed


refused = set(sys.stdin.read().split()) - permitted(sys.argv[1])
if refused:
    sys.exit(f"FAULT: {sys.argv[1]} refuses {sorted(refused)}")
