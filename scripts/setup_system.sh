#!/usr/bin/env bash
# Checks for what the registries of Rust and Python cannot give; installs it from Debian's when that is allowed.
set -euo pipefail

missing=()
command -v cc >/dev/null || missing+=(build-essential)
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=(python3 python3-venv)
fi
# vLLM for CPUs is linked to the first, and compiles with the others.
python3 -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || missing+=(libnuma1)
command -v g++ >/dev/null || missing+=(g++)
python3 -c 'import pathlib, sysconfig; (pathlib.Path(sysconfig.get_path("include")) / "Python.h").stat()' 2>/dev/null ||
    missing+=(python3-dev)
# Tests start them.
command -v redis-server >/dev/null || missing+=(redis-server)
command -v openssl >/dev/null || missing+=(openssl)
command -v prometheus >/dev/null || missing+=(prometheus)
command -v chromium >/dev/null || missing+=(chromium)
if ((${#missing[@]})); then
    if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
        echo "setup_system: installing ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
    else
        echo "setup_system: please install: ${missing[*]} (on Debian: apt-get install ${missing[*]}, as root)" >&2
        exit 1
    fi
fi
if ! command -v cargo >/dev/null; then
    echo "setup_system: cargo is not there; install Rust 1.95 or newer (https://rustup.rs)" >&2
    exit 1
fi
