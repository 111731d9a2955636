"""What the documents show works: programs run, configurations load, commands are understood.

Each fenced block says its language, and each language has a check here; a block without one, or of a language or a
command that nobody checks, fails. `text` is for what is no input of anything, `hex` for the dumps that
`crates/forebay-cli/tests/format.rs` compares.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import DOCUMENTS, ROOT, Block, blocks
from tiny_model import QUICK_VLLM_ENVIRONMENT

import forebay

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
NO_INPUT = {"text", "hex"}
EXAMPLES = {file.read_text(): file.name for file in (ROOT / "examples").glob("*.py")}
# Blocks of these are checked, each of them, by the test that is named.
ELSEWHERE = {("docs/FORMAT.md", "json"): "crates/forebay-cli/tests/format.rs"}
COMMAND_MAX_S = 120
VLLM_MAX_S = 480
TOKEN = "a-word"
# What stands for something in a command.
PLACEHOLDERS = {"SIZE": "2MiB", "DIR": "/nvme"}


def of(*languages: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.language in languages]


def here(text: str, scratch: Path) -> str:
    """With paths below the scratch directory, and small enough for it."""
    text = text.replace("/nvme", str(scratch / "nvme"))
    return re.sub(r"""(max_local_disk_size["']?\s*[=:]\s*)\d+""", r"\g<1>0.25", text)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("FOREBAY_", "LMCACHE_")):
            monkeypatch.delenv(name)
    for folder in ("nvme", "nvme0", "nvme1"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_says_what_it_is_and_is_checked() -> None:
    checked = {"python", "yaml", "json", "toml", "sh", "promql", "rust"}
    unknown = [f"{block} ({block.language or 'no language'})" for block in BLOCKS]
    unknown = [it for it, block in zip(unknown, BLOCKS, strict=True) if block.language not in checked | NO_INPUT]
    assert not unknown
    for (document, language), test in ELSEWHERE.items():
        assert any(document == str(it.document.relative_to(ROOT)) and language == it.language for it in BLOCKS)
        text = (ROOT / test).read_text()
        assert document in text and f"```{language}" in text


# Python


def imports_vllm(block: Block) -> bool:
    return re.search(r"^(from|import) vllm\b", block.text, re.MULTILINE) is not None


def is_shown_whole(block: Block) -> bool:
    return block.text in EXAMPLES


def with_python() -> list[Any]:
    documents = dict.fromkeys(block.document for block in BLOCKS if block.language == "python")
    return [pytest.param(document, id=document.name) for document in documents]


@pytest.mark.parametrize("document", with_python())
def test_python_runs(document: Path, scratch: Path) -> None:
    """In the order in which it stands there."""
    names: dict[str, Any] = {"__name__": "__snippet__"}
    for block in blocks(document):
        if block.language != "python":
            continue
        if is_shown_whole(block):
            tests = Path(__file__).with_name("test_examples.py").read_text()
            assert f'"{EXAMPLES[block.text]}"' in tests, "an example that no test runs"
        elif not imports_vllm(block):  # those have a test of their own
            source = "\n" * (block.line - 1) + here(block.text, scratch)
            exec(compile(source, str(block), "exec"), names)
            if (options := names.pop("kv_connector_extra_config", None)) is not None:
                assert_connector_takes(options)


RUN_VLLM = """
import functools, runpy, sys, vllm
vllm.LLM = functools.partial(vllm.LLM, enforce_eager=True, load_format="dummy", skip_tokenizer_init=True)
if __name__ == "__main__":
    llm = runpy.run_path(sys.argv[1])["llm"]
    parameters = vllm.SamplingParams(max_tokens=1, detokenize=False)
    llm.generate([{"prompt_token_ids": [3 + at % 250 for at in range(2 * 256 + 10)]}], parameters)
"""


@pytest.mark.parametrize("block", [it for it in of("python") if imports_vllm(it.values[0])])
def test_an_engine_starts_as_shown_and_stores_there(block: Block, scratch: Path, tiny_model: Path) -> None:
    if is_shown_whole(block):
        return
    assert block.text.count('model="..."') == 1
    snippet, runner = scratch / "snippet.py", scratch / "runner.py"
    snippet.write_text(here(block.text, scratch).replace('model="..."', f"model={str(tiny_model)!r}"))
    runner.write_text(RUN_VLLM)
    ended = subprocess.run(
        [sys.executable, str(runner), str(snippet)],
        capture_output=True,
        text=True,
        timeout=VLLM_MAX_S,
        env={**os.environ, **QUICK_VLLM_ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        check=False,
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-4000:]
    assert json.loads(run_forebay("inspect", str(scratch / "nvme/kv"), "--json"))["chunks"] == 2


# Configuration


def assert_connector_takes(options: dict[str, Any]) -> None:
    from forebay.vllm.settings import read_settings  # noqa: PLC0415 # takes vLLM along

    if (path := options.get("forebay_config")) is not None:
        name = Path(path).name
        Path(name).write_text("{local_disk: /nvme/kv, max_local_disk_size: 100}")
        options = {**options, "forebay_config": name}
    read_settings(options)


def assert_configures(text: str, **more: Any) -> forebay.Config:
    Path("configuration.yaml").write_text(text)
    if "local_disk" not in text and "remote_url" not in text:  # a part of a file
        more.update(local_disk="/nvme/kv", max_local_disk_size=100)
    return forebay.Config.load("configuration.yaml", **more)


@pytest.mark.parametrize("block", of("yaml", "json"))
def test_configurations_load(block: Block) -> None:
    where = (str(block.document.relative_to(ROOT)), block.language)
    if where in ELSEWHERE:
        return
    if "forebay_config" in block.text:
        assert_connector_takes(json.loads(block.text))
        return
    config = assert_configures(block.text)
    assert not config.warnings


def test_a_configuration_that_is_wrong_does_not_pass() -> None:
    with pytest.raises(forebay.Error, match="local_dsk"):
        assert_configures("local_dsk: /nvme/kv\nlocal_disk: /nvme/kv\nmax_local_disk_size: 1")


# Commands


def run_forebay(*arguments: str) -> str:
    program = Path(sys.executable).with_name("forebay")
    ended = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=COMMAND_MAX_S, check=False)
    assert ended.returncode == 0, (arguments, ended.stdout[-2000:], ended.stderr[-2000:])
    return ended.stdout


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command, without comments and without where its output goes."""
    pending = ""
    for line in text.splitlines():
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation that goes on
            pending += "\n"
            continue
        pending = ""
        if ">" in words:
            words = words[: words.index(">")]
        if words:
            yield words
    assert not pending, f"a quotation without an end: {pending}"


def check_forebay(words: list[str], scratch: Path) -> None:
    """Understood as it stands, and run where that takes no time."""
    words = [here(PLACEHOLDERS.get(word, word), scratch) for word in words]
    assert "Usage:" in run_forebay(*words[1:], "--help")
    if words[1] in {"inspect", "verify"}:
        fill(scratch / "nvme/kv")
    if words[1] == "replay" and "--simulate" in words:
        run_forebay("replay", "--generate", "--requests", "50", "--output", "trace.jsonl")
    if words[1] == "config":
        configuration = "{local_disk: /nvme/kv, max_local_disk_size: 100}"
        for name in ("forebay.yaml", "lmcache.yaml", "their.yaml"):
            Path(name).write_text(configuration)
        if len(words) == 2:
            words = [*words, "--file", "forebay.yaml"]
    if words[1] in {"inspect", "verify", "config", "completions", "man"} or "--simulate" in words:
        assert run_forebay(*words[1:])


def fill(directory: Path) -> None:
    with forebay.Cache(small_config(directory), 1 << 16) as cache:
        keys = forebay.chunk_keys(list(range(512)))
        cache.store(keys, [bytes(1 << 16)] * 2).wait(COMMAND_MAX_S)


def small_config(directory: Path, **more: Any) -> forebay.Config:
    sizes = {"max_local_disk_size": 0.01, "max_local_cpu_size": 0.001, "disk_min_free_size": 0}
    return forebay.Config(local_disk=str(directory), use_only_staging_buffer=True, **sizes, **more)


def check_curl(words: list[str], scratch: Path) -> None:
    """Asked of a cache that is there."""
    config = small_config(scratch / "nvme/kv", http_listen=0, http_token=TOKEN)
    with forebay.Cache(config, 1 << 16) as cache:
        assert cache.http_address
        said = [
            word.replace("127.0.0.1:9180", cache.http_address).replace("$FOREBAY_HTTP_TOKEN", TOKEN) for word in words
        ]
        assert said != words
        subprocess.run([*said, "--fail", "--silent"], timeout=COMMAND_MAX_S, check=True, stdout=subprocess.DEVNULL)


def check_make(words: list[str], scratch: Path) -> None:
    for word in words[1:]:
        name, _, value = word.partition("=")
        text = (ROOT / "Makefile").read_text()
        wanted = rf"^{name} \?=|\$\({name}\)|\$\(if \$\({name}\)" if value else rf"^{name}:"
        assert re.search(wanted, text, re.MULTILINE), word


def check_pip(words: list[str], scratch: Path) -> None:
    assert words == ["pip", "install", "."], "what is installed is the directory itself"
    assert (ROOT / "pyproject.toml").exists()


def check_python(words: list[str], scratch: Path) -> None:
    assert words[1] in {f"examples/{name}" for name in EXAMPLES.values()}


def check_vllm(words: list[str], scratch: Path) -> None:
    from vllm.config import KVTransferConfig  # noqa: PLC0415 # slow

    assert words[1] == "serve" and words[3] == "--kv-transfer-config" and len(words) == 5
    transfer = KVTransferConfig(**json.loads(words[4]))
    assert (transfer.kv_connector, transfer.kv_connector_module_path) == ("ForebayConnector", "forebay.vllm")
    assert_connector_takes(transfer.kv_connector_extra_config)


def check_cargo(words: list[str], scratch: Path) -> None:
    names = dict(zip(words, [*words[1:], ""], strict=True))
    crate = ROOT / "crates" / names["-p"]
    assert crate.is_dir()
    if "--example" in words:
        assert (crate / "examples" / f"{names['--example']}.rs").exists()
    if "--" in words:
        flags = [word for word in words[words.index("--") :] if re.match("--[a-z]", word)]
        source = (crate / "src/main.rs").read_text()
        assert flags and all(re.search(rf"#\[arg\(long.*\n\s*{flag[2:]}:", source) for flag in flags)


def check_peers(words: list[str], scratch: Path) -> None:
    program = ROOT / words[0]
    said = subprocess.run(
        [sys.executable, program, *words[1:], "--help"],
        capture_output=True,
        text=True,
        timeout=COMMAND_MAX_S,
        check=True,
    ).stdout
    assert all(word in said for word in words if word.startswith("--"))


def check_file_of_deploy(words: list[str], scratch: Path) -> None:
    file = words[words.index("-f") + 1]
    assert file.startswith("deploy/") and (ROOT / file).exists()
    assert file in Path(__file__).with_name("test_deploy.py").read_text(), "a file that no test looks at"


COMMANDS: dict[str, Callable[[list[str], Path], None]] = {
    "forebay": check_forebay,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "vllm": check_vllm,
    "cargo": check_cargo,
    "curl": check_curl,
    "bench/peers/run.py": check_peers,
    "docker": check_file_of_deploy,
    "kubectl": check_file_of_deploy,
}


@pytest.mark.parametrize("block", of("sh"))
def test_commands_are_understood(block: Block, scratch: Path) -> None:
    shown = list(commands(block.text))
    assert shown
    for words in shown:
        assert words[0] in COMMANDS, f"nobody checks {words}"
        COMMANDS[words[0]](words, scratch)


def test_a_command_that_is_wrong_does_not_pass(scratch: Path) -> None:
    for line in ("forebay inspct /nvme/kv", "forebay bench --dyr /nvme", "make tset", "python examples/cash.py"):
        [words] = commands(line)
        with pytest.raises(AssertionError):
            COMMANDS[words[0]](words, scratch)


# The rest


@pytest.mark.parametrize("block", of("promql"))
def test_queries_are_understood_and_ask_for_metrics_that_are_there(block: Block, scratch: Path) -> None:
    assert shutil.which("promtool"), "comes with prometheus"
    queries = [line.split("  #")[0].strip() for line in block.text.splitlines() if line.strip()]
    rules = [{"record": f"asked:{number}", "expr": query} for number, query in enumerate(queries)]
    file = scratch / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "shown", "rules": rules}]}))  # which is YAML
    subprocess.run(["promtool", "check", "rules", file], timeout=COMMAND_MAX_S, check=True)
    table = (ROOT / "docs/METRICS.md").read_text()
    for query in queries:
        names = re.findall(r"forebay_\w+", query)
        assert names
        for name in names:
            assert f"| `{name.removesuffix('_bucket')}` |" in table, name


@pytest.mark.parametrize("block", of("toml"))
def test_manifests_name_crates_that_are_there(block: Block) -> None:
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["dependencies"]
    for name, wanted in tomllib.loads(block.text)["dependencies"].items():
        if isinstance(wanted, dict):
            crate = ROOT.joinpath(*Path(wanted["path"]).parts[2:])
            assert tomllib.loads((crate / "Cargo.toml").read_text())["package"]["name"] == name
        else:
            assert workspace[name] == wanted


@pytest.mark.parametrize("block", of("rust"))
def test_rust_is_compiled_by_the_doctests(block: Block) -> None:
    included = f'#[doc = include_str!("../../../{block.document.relative_to(ROOT)}")]'
    sources = [file.read_text() for file in (ROOT / "crates").glob("*/src/lib.rs")]
    assert any(f"#[cfg(doctest)]\n{included}" in source for source in sources)


def test_the_loop_that_is_shown_is_that_of_the_example() -> None:
    example = (ROOT / "crates/forebay/examples/engine.rs").read_text()
    [shown] = [block for block in BLOCKS if block.language == "rust" and "fn prefill" in block.text]
    assert shown.text[shown.text.index("/// What an engine does") :].strip() in example
