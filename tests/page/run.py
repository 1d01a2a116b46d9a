#!/usr/bin/env python3
"""Looks at the status page of `TOKEN_VALET_BIN` with Chromium; a non-zero exit code for a fault. `--shots DIR` keeps
pictures."""

from __future__ import annotations

import argparse
import sys
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    sys.dont_write_bytecode = True
    # The program under test and its provider are played as in the attacks.
    sys.path[:0] = [str(HERE), str(HERE.parent / "hostile")]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=Path, metavar="DIR", help="where pictures of the page go")
    parser.add_argument("tests", nargs="*", default=["test_page"], help="such as test_page.StatusPage.test_NAME")
    arguments = parser.parse_args()

    import test_page
    from browser import program

    program()
    if arguments.shots is not None:
        arguments.shots.mkdir(parents=True, exist_ok=True)
        test_page.StatusPage.shots = arguments.shots
    start = time.monotonic()
    suite = unittest.defaultTestLoader.loadTestsFromNames(arguments.tests)
    result = unittest.TextTestRunner(sys.stdout, verbosity=2).run(suite)
    print(f"{result.testsRun} tests, {time.monotonic() - start:.0f} s")
    if result.testsRun == 0 or result.skipped:
        return 1
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
