"""The `forebay` command of the wheel."""

import sys

from forebay._native import run_cli


def main() -> int:
    return run_cli(sys.argv)
