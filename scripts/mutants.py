#!/usr/bin/env python3
"""Whether the simulator, or the models, find mistakes that were made on purpose.

Applies each patch of crates/forebay-sim/mutants, one at a time, to a worktree of the commit that is checked out, builds
the simulator there and runs it until it finds a violation or has run all seeds. Prints a table for
docs/SIMULATION.md. With --models, those of crates/forebay-models/mutants and the models, for docs/MODELS.md. The tree
itself is never touched.

    scripts/mutants.py [--models] [--seeds N] [--seconds S] [--from NAME] [--only WORD]
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CRATES = ROOT / "crates"


def run(*command, cwd, env=None):
    return subprocess.run(command, check=False, cwd=cwd, env=env, capture_output=True, text=True)


def verdict_of_models(tree, env, seconds):
    """What becomes of the mutated tree under the models: a row's last two columns."""
    command = ["cargo", "test", "--quiet", "--offline", "-p", "forebay-models", "--test", "models"]
    built = run(*command, "--no-run", cwd=tree, env=env)
    if built.returncode != 0:
        return "does not build", built.stderr.strip().splitlines()[0]
    try:
        ended = subprocess.run(
            [*command, "--", "--test-threads=1"],
            check=False,
            cwd=tree,
            env=env,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return "hangs", f"no end within {seconds} s"
    if ended.returncode == 0:
        return "NOT FOUND", ""
    found = []
    for name, output in re.findall(
        r"^---- (\w+) stdout ----\n(.*?)(?=^---- |^failures:$|\Z)", ended.stdout, re.M | re.S
    ):
        order = re.search(r"the model failed in order (\d+), chosen (.*)", output)
        found.append(f"`{name}`, order {order[1]} {order[2]}" if order else f"`{name}`")
    return "; ".join(found) or "?", ""


def verdict(tree, env, seeds, seconds):
    """What becomes of the mutated tree: a row's last two columns."""
    built = run("cargo", "build", "--quiet", "--offline", "--release", "-j1", "-p", "forebay-sim", cwd=tree, env=env)
    if built.returncode != 0:
        return "does not build", built.stderr.strip().splitlines()[0]
    program = pathlib.Path(env["CARGO_TARGET_DIR"]) / "release" / "forebay-sim"
    command = [str(program), "--no-shrink", "--seeds", str(seeds)]
    try:
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return "hangs", f"no end within {seconds} s"
    found = re.match(r"# seed (\d+), step (\d+): panicked at \S+?([^/\s]+\.rs:\d+):\d+: (.*)", ended.stdout)
    if found:
        seed, step, place, message = found.groups()
        return f"seed {seed}, step {step}", f"`{place}`: {message[:70]}"
    return ("NOT FOUND", ended.stdout.splitlines()[0]) if ended.returncode == 0 else ("?", ended.stderr[:70])


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--models", action="store_true", help="mistakes for the models, not for the simulator")
    arguments.add_argument("--seeds", type=int, default=10_000, help="seeds to run for each (default: 10000)")
    arguments.add_argument("--seconds", type=int, default=300, help="the longest one may take")
    arguments.add_argument("--from", dest="first", default="", help="skip patches whose names come before this")
    arguments.add_argument("--only", default="", help="only patches with this in their name")
    options = arguments.parse_args()
    # Only what is mutated is compiled anew.
    env = dict(os.environ, CARGO_INCREMENTAL="1")
    env.setdefault("CARGO_TARGET_DIR", str(ROOT / "target"))
    missed = 0
    patches = CRATES / ("forebay-models" if options.models else "forebay-sim") / "mutants"
    with tempfile.TemporaryDirectory() as directory:
        tree = pathlib.Path(directory) / "tree"
        run("git", "worktree", "add", "--detach", str(tree), "HEAD", cwd=ROOT)
        try:
            print("| mistake | found at | by |\n|---|---|---|", flush=True)
            for patch in sorted(patches.glob("*.patch")):
                if options.only not in patch.stem or patch.stem < options.first:
                    continue
                run("git", "checkout", "--quiet", "--force", ".", cwd=tree)
                applied = run("git", "apply", "--recount", str(patch), cwd=tree)
                if applied.returncode != 0:
                    at, by = "does not apply", applied.stderr.strip().splitlines()[0]
                elif options.models:
                    at, by = verdict_of_models(tree, env, options.seconds)
                else:
                    at, by = verdict(tree, env, options.seeds, options.seconds)
                missed += not at.startswith(("seed", "`"))
                print(f"| {patch.stem.replace('-', ' ')} | {at} | {by} |", flush=True)
        finally:
            run("git", "worktree", "remove", "--force", str(tree), cwd=ROOT)
            shutil.rmtree(tree, ignore_errors=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
