#!/usr/bin/env python3
"""Plays a hostile neighbour against `TOKEN_VALET_BIN`: a line for each attack, a non-zero exit code for a fault."""

from __future__ import annotations

import io
import sys
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(HERE))
    from neighbour import Tally

    start = time.monotonic()
    pattern = f"test_{sys.argv[1]}.py" if len(sys.argv) > 1 else "test_*.py"
    suite = unittest.defaultTestLoader.discover(str(HERE), pattern)
    told = io.StringIO()
    result = unittest.TextTestRunner(told, verbosity=0).run(suite)
    for test, text in [*result.failures, *result.errors]:
        faults = [line.removeprefix("AssertionError: ") for line in text.splitlines() if "FAULT " in line]
        print(f"\nFAILED {test.id()}\n" + ("\n".join(faults) or text))
    print(
        f"\n{Tally.attacks} attacks in {result.testsRun} tests, {Tally.faults} faults, "
        f"{len(result.errors)} errors, {time.monotonic() - start:.0f} s"
    )
    if result.testsRun == 0 or result.skipped:
        return 1
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
