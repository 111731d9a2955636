"""What is shown over HTTP: to a real Prometheus, and to whoever asks."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import free_port

import forebay

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
CHUNK = 64 << 10
PATIENCE_S = 60


def get(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def values(directory: Path, **more: Any) -> dict[str, Any]:
    return {
        "local_disk": str(directory / "kv"),
        "max_local_disk_size": (16 << 20) / GIB,
        "local_cpu": False,
        "use_only_staging_buffer": True,
        "max_local_cpu_size": 16 * CHUNK / GIB,
        "disk_min_free_size": 0,
        "http_listen": 0,
        **more,
    }


def config(directory: Path, **more: Any) -> forebay.Config:
    return forebay.Config(**values(directory, **more))


def keys_of(prompt: int, chunks: int) -> list[bytes]:
    return forebay.chunk_keys([prompt] * (4 * chunks), namespace=forebay.Namespace(model="watched"), chunk_size=4)


def work(cache: forebay.Cache, prompts: range) -> None:
    """Stores some prompts and loads them again, evicting what does not fit."""
    for prompt in prompts:
        keys = keys_of(prompt, 4)
        cache.store(keys, [bytes(CHUNK) for _ in keys]).wait(PATIENCE_S)
        with cache.lookup(keys):
            cache.load(keys, [bytearray(CHUNK) for _ in keys]).wait(PATIENCE_S)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[forebay.Cache]:
    (tmp_path / "shared").mkdir()
    remote = {"remote_url": f"file://{tmp_path / 'shared'}", "max_remote_size": 0.1}
    with forebay.Cache(config(tmp_path, **remote), chunk_bytes=CHUNK) as cache:
        yield cache


def test_it_is_off_unless_asked_for(tmp_path: Path) -> None:
    with forebay.Cache(config(tmp_path, http_listen=None), chunk_bytes=CHUNK) as cache:
        assert cache.http_address is None


def test_a_cache_is_seen_until_it_is_closed(tmp_path: Path) -> None:
    cache = forebay.Cache(config(tmp_path), chunk_bytes=CHUNK)
    address = cache.http_address
    assert address is not None
    work(cache, range(3))
    assert get(address, "/healthz")[0] == 200
    assert 'forebay_loaded_chunks_total{tier="disk"} 12' in get(address, "/metrics")[1]
    cache.close()
    assert cache.http_address is None
    with pytest.raises(urllib.error.URLError):
        get(address, "/healthz")


def test_a_port_that_is_taken_costs_the_page_and_not_the_cache(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with forebay.Cache(config(tmp_path, http_listen=taken.getsockname()[1]), chunk_bytes=CHUNK) as cache:
            assert cache.http_address is None
            work(cache, range(1))
            assert cache.stats()["stored"] == 4


def test_both_halves_are_seen_in_one_place(tmp_path: Path) -> None:
    settings = config(tmp_path)
    plane = forebay.ControlPlane(settings, CHUNK)
    movers = [forebay.Mover(settings, CHUNK) for _ in range(2)]
    address = plane.http_address
    assert address is not None
    keys = keys_of(1, 3)
    plans = plane.plan_store(keys, CHUNK)
    messages = [plan.message for plan in plans]
    transfer = movers[1].store(messages, [bytes(CHUNK) for _ in keys])
    transfer.wait(PATIENCE_S)
    for message, status, reason in transfer.poll():
        assert plane.finish(message, status, reason)
    for number, mover in enumerate(movers):
        plane.note_mover(number, mover.figures())
    now = json.loads(get(address, "/api/now")[1])
    assert [mover["worker"] for mover in now["movers"]] == [0, 1]
    assert all(mover["age_s"] < PATIENCE_S for mover in now["movers"])
    assert now["tiers"][0]["stored_chunks"] == 3 == now["tiers"][0]["chunks"]
    # They are in this process: what they do later is seen without their saying so.
    later = plane.plan_store(keys_of(2, 2), CHUNK)
    movers[0].store([plan.message for plan in later], [bytes(CHUNK) for _ in later]).wait(PATIENCE_S)
    now = json.loads(get(address, "/api/now")[1])
    assert now["tiers"][0]["stored_chunks"] == 5 and [mover["age_s"] for mover in now["movers"]] == [0, 0]
    # Of one in another process what it said is shown.
    script = f"import forebay; print(forebay.Mover(forebay.Config(**{values(tmp_path)}), {CHUNK}).figures().hex())"
    elsewhere = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=PATIENCE_S)
    plane.note_mover(2, bytes.fromhex(elsewhere.stdout.decode()))
    now = json.loads(get(address, "/api/now")[1])
    assert [mover["age_s"] > 0 for mover in now["movers"]] == [False, False, True]
    with pytest.raises(forebay.Error, match="no figures"):
        plane.note_mover(0, b"{}")
    with pytest.raises(forebay.Error, match="numbered"):
        plane.note_mover(1 << 30, movers[0].figures())
    for mover in movers:
        mover.close()
    now = json.loads(get(address, "/api/now")[1])
    assert all(mover["age_s"] > 0 for mover in now["movers"])
    assert now["tiers"][0]["stored_chunks"] == 5, "what they said last is still shown"
    plane.close()
    assert plane.http_address is None


class Prometheus:
    """A real one, which reads from one address each second."""

    def __init__(self, folder: Path, target: str) -> None:
        self._url = f"http://127.0.0.1:{free_port()}"
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ROOT / "deploy/alerts.yaml")],
            "scrape_configs": [{"job_name": "forebay", "static_configs": [{"targets": [target]}]}],
        }
        file = folder / "prometheus.yml"
        file.write_text(json.dumps(settings))  # which is YAML
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={self._url.removeprefix('http://')}",
            ],
            stdout=(folder / "prometheus.log").open("w"),
            stderr=subprocess.STDOUT,
        )

    def ask(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self._url}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[Any]:
        return self.ask("/api/v1/query", query=expression)["result"]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)


def dashboard_queries() -> dict[str, str]:
    """Every query of the dashboard, for all jobs and instances, by panel and legend."""
    dashboard = json.loads((ROOT / "deploy/grafana.json").read_text())
    queries = {}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$job", ".*").replace("$instance", ".*")
            assert "$" not in expression, expression
            queries[f"{panel['title']} {target['refId']}"] = expression
    return queries


def test_prometheus_reads_it_and_every_query_of_dashboard_and_alerts_finds_something(
    watched: forebay.Cache, tmp_path: Path
) -> None:
    address = watched.http_address
    assert address is not None
    prometheus = Prometheus(tmp_path, address)
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        missing, prompt = {"all": "not asked yet"}, 0
        # A rate wants two samples, and a hit rate that something is looked up between them.
        while missing and time.monotonic() < deadline_s:
            work(watched, range(prompt, prompt + 20))
            prompt += 20
            time.sleep(0.2)
            try:
                missing = {name: query for name, query in dashboard_queries().items() if not prometheus.query(query)}
            except (urllib.error.URLError, ConnectionError):
                continue  # it is still starting
        assert not missing, (missing, (tmp_path / "prometheus.log").read_text()[-3000:])
        rules = prometheus.ask("/api/v1/rules")["groups"][0]["rules"]
        assert all(rule["health"] == "ok" for rule in rules), rules
        for rule in rules:
            names = set(re.findall(r"forebay_\w+", rule["query"]))
            assert names and all(prometheus.query(name) for name in names), rule["name"]
            assert rule["state"] == "inactive", "nothing is wrong here"
    finally:
        prometheus.close()
