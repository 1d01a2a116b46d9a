"""Writes a configuration as the program of today takes it: without the keys of deploy/test/not_yet, but with those
of them that it knows by now. Usage: today.py PROGRAM CONFIGURATION"""

import pathlib
import re
import subprocess
import sys


def listed(kind):
    """What deploy/test/not_yet lists of a kind: `key` or `metric`."""
    lines = (pathlib.Path(__file__).parent / "not_yet").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith(f"{kind} ")]


def unknown_keys(program):
    """The keys of the list that are still unknown to the program."""
    unknown = []
    for key in listed("key"):
        variable = "TOKEN_VALET__" + key.upper().replace(".", "__")
        # Of a key that it knows, any value is fine or a fault of the value.
        told = subprocess.run(
            [program, "check", "-c", "/dev/null"], env={variable: "1s"}, capture_output=True, text=True
        ).stderr
        if f"`{key}` is not a known key" in told:
            unknown.append(key)
        else:
            print(f"note: `{key}` is known now: take it out of deploy/test/not_yet", file=sys.stderr)
    return unknown


def without(text, keys):
    """The TOML text without these keys, which must each be on a line of their own."""
    kept, table = [], ""
    for line in text.splitlines():
        if head := re.match(r"\[(.+)\]$", line):
            table = head[1]
        key = line.partition("=")[0].strip()
        if f"{table}.{key}" not in keys:
            kept.append(line)
    return "\n".join(kept) + "\n"


def of_today(program, text):
    return without(text, unknown_keys(program))


if __name__ == "__main__":
    sys.stdout.write(of_today(sys.argv[1], pathlib.Path(sys.argv[2]).read_text()))
