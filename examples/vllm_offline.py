"""vLLM with Forebay, offline: run it twice, and the second engine finds on disk what the first has computed.

python examples/vllm_offline.py MODEL DIRECTORY
"""

import sys

from vllm import LLM, SamplingParams
from vllm.config import KVTransferConfig

PROMPT = "Water is staged in the forebay, ahead of the dam, and never kept there. " * 40


def main(model: str, directory: str) -> None:
    llm = LLM(
        model=model,
        kv_transfer_config=KVTransferConfig(
            kv_connector="ForebayConnector",
            kv_connector_module_path="forebay.vllm",
            kv_role="kv_both",
            kv_load_failure_policy="recompute",
            kv_connector_extra_config={
                "local_disk": directory,
                "max_local_disk_size": 1,  # GiB
                "max_local_cpu_size": 0.25,  # GiB: the bound on CPU memory
                "use_only_staging_buffer": True,
            },
        ),
    )
    [answer] = llm.generate([PROMPT], SamplingParams(temperature=0, max_tokens=8))
    print(f"tokens of prompt: {len(answer.prompt_token_ids)}, of them from the cache: {answer.num_cached_tokens}")
    print(f"answer: {list(answer.outputs[0].token_ids)}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
