"""Forebay for vLLM: a KV connector that keeps prompts' KV on disk and gives it back after a restart.

    LLM(model, kv_transfer_config=KVTransferConfig(
        kv_connector="ForebayConnector", kv_connector_module_path="forebay.vllm", kv_role="kv_both",
        kv_connector_extra_config={"local_disk": "/nvme/kv", "max_local_disk_size": 100}))

Where to look: `connector` is the class vLLM names and the only file that knows its interface; `scheduler`
decides (control plane), `worker` does (mover); `messages` is all they say to each other; `layout` reads the
engine's KV cache and refuses what cannot be served; `device` copies between KV pages and staging; `settings`
reads the options.
"""

from .connector import ForebayConnector

__all__ = ["ForebayConnector"]
