"""A model that vLLM starts as any other, from a folder with weights and a tokenizer. What it says means nothing."""

from __future__ import annotations

from pathlib import Path

# How a vLLM of a test is to start, besides what it is given.
VLLM_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several workers may run on fewer processors
}
# Neither compiled, nor traced, nor warmed up.
QUICK_VLLM_ENVIRONMENT = {**VLLM_ENVIRONMENT, "VLLM_CPU_CI_ENV": "1", "TORCHDYNAMO_DISABLE": "1"}


def write_tiny_model(folder: Path) -> Path:
    """A Llama of two layers; each byte of a text is a token."""
    # Slow to import, and only some tests need them.
    import torch  # noqa: PLC0415
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: PLC0415

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(special + alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=8192
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        vocab_size=512,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=1,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
