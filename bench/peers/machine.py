"""What a figure depends on, in one line, and nothing that names the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def _first(path: str, field: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return "unknown"


def _mount(directory: Path) -> tuple[str, str]:
    """Device and file system of a directory."""
    best = ("", "unknown", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        device, mount, kind, *_ = line.split()
        if directory.resolve().is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, device, kind)
    return best[1], best[2]


def _drive(device: str) -> str:
    name = Path(device).name
    for block in Path("/sys/block").iterdir():
        if name.startswith(block.name):
            kinds = {"vd": "virtio drive", "nvme": "NVMe drive", "sd": "SCSI or SATA drive"}
            return next((kind for start, kind in kinds.items() if block.name.startswith(start)), "drive")
    return "drive"


def describe(directory: Path) -> str:
    device, file_system = _mount(directory)
    memory_gib = int(_first("/proc/meminfo", "MemTotal").split()[0]) / (1 << 20)
    return (
        f"{os.cpu_count()} cores of {_first('/proc/cpuinfo', 'model name')}, {memory_gib:.0f} GiB of memory, "
        f"Linux {platform.release().split('-')[0]}, {file_system} on a {_drive(device)}"
    )
