"""The connector's options: `kv_connector_extra_config` of vLLM's KV transfer configuration.

Every key is one of forebay's own settings, except the few below. They come on top of `FOREBAY_*` in the
environment, which comes on top of the file. What is wrong in them is refused at start in forebay's own words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import forebay

_DEFAULT_CHUNK_TOKENS = 256
_DEFAULT_LOOKUP_WAIT_S = 1.0


@dataclass(frozen=True)
class Settings:
    config: forebay.Config
    chunk_tokens: int
    save_decode_cache: bool
    """Whether generated tokens are stored too, not only prompts."""
    cache_salt: str = field(repr=False)
    """Separates those who share a cache's place and must not share chunks."""
    has_disk: bool
    has_remote: bool
    """Whether there is a store that other instances may share."""
    lookup_wait_s: float
    """How long a request waits, from its first lookup that is still open, before what is known must do."""
    is_watched: bool
    """Whether what the cache does is shown over HTTP."""
    model_revision: str
    """What names the weights beyond the model's id; empty: found out from the model's files."""


def read_settings(extra_config: dict[str, Any], workers: int = 1) -> Settings:
    """Of an engine of so many workers. With several there is no memory tier: what one has in its memory the
    others cannot read."""
    keys = dict(extra_config)
    path = keys.pop("forebay_config", None)
    revision = str(keys.pop("model_revision", ""))
    config = forebay.Config.load(path, **keys)
    if workers > 1 and config.to_dict()["local_cpu"]:
        config = forebay.Config.load(path, **{**keys, "local_cpu": False})
    values = config.to_dict()
    return Settings(
        config=config,
        chunk_tokens=int(values.get("chunk_size") or _DEFAULT_CHUNK_TOKENS),
        save_decode_cache=bool(values.get("save_decode_cache", False)),
        cache_salt=config.cache_salt,
        has_disk=bool(values.get("local_disk")),
        has_remote=values.get("remote_url") is not None,
        lookup_wait_s=float(values.get("lookup_wait_s", _DEFAULT_LOOKUP_WAIT_S)),
        is_watched=values.get("http_listen") is not None,
        model_revision=revision,
    )
