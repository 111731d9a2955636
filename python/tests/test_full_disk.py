"""Guarantee 9 on a file system that is really full: a small one, mounted in a namespace of the test's own."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("full_disk_program.py")


def test_a_full_disk_refuses_stores_keeps_what_was_committed_and_recovers(tmp_path):
    script = f"""
        mount -t tmpfs -o size=64m tmpfs {shlex.quote(str(tmp_path))} &&
        exec {shlex.quote(sys.executable)} {shlex.quote(str(PROGRAM))} {shlex.quote(str(tmp_path))}
    """
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    ended = subprocess.run([*own, "sh", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, f"no mount of its own, or a crash: {ended.stderr}"
    seen = json.loads(ended.stdout)
    # Whether the journal ran out at an eviction or at a commit is the file system's affair.
    full = set(seen.pop("full"))
    assert full <= {"stored", "refused journal", "failed journal"}
    assert full & {"refused journal", "failed journal"}
    assert seen == {
        "before": ["stored"],
        "filled": True,
        "committed_is_there": True,
        "degraded": True,
        "left_behind": 0,
        "after": True,
        "degraded_after": False,
        "after_restart": True,
    }
    assert "cannot write the journal" in ended.stderr
