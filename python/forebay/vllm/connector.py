"""The class vLLM names, and the only file that depends on the connector interface of a vLLM release (0.32).

One instance lives in the scheduler, one in each worker; each passes its hooks to its half. No exception
leaves a hook that runs in a step: it is counted, said in the log, and answered with what makes the engine
compute. Only starting may fail, with a message that says what to change.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorRole
from vllm.distributed.parallel_state import get_pp_group, get_tp_group
from vllm.v1.metrics.cache_hit_source import CacheHitSource

import forebay

from .device import open_pages
from .incidents import Incidents
from .layout import lora_identity, namespace, read_layout, read_shards, worker_index
from .messages import StepPlan, StepReport
from .metrics import PromMetrics, Tally
from .scheduler import SchedulerHalf, open_control_plane, warn_of_unstable_hashes
from .settings import read_settings
from .worker import WorkerHalf

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.kv_events import KVCacheEvent
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput

logger = logging.getLogger("forebay.vllm")

T = TypeVar("T")


class ForebayConnector(KVConnectorBase_V1):
    _cache_hit_source = CacheHitSource.DISK

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        _speak_through_vllm()
        transfer = self._kv_transfer_config
        settings = read_settings(transfer.kv_connector_extra_config, vllm_config.parallel_config.world_size)
        layout = read_layout(vllm_config, kv_cache_config, settings.chunk_tokens)
        self._layout = layout
        self._incidents = Incidents()
        self._scheduler: SchedulerHalf | None = None
        self._worker: WorkerHalf | None = None
        if settings.has_remote:
            self._cache_hit_source = CacheHitSource.EXTERNAL_UNSPECIFIED
        if role == KVConnectorRole.WORKER:
            ranks = get_tp_group()
            index = worker_index(ranks.rank_in_group, ranks.world_size, get_pp_group().rank_in_group)
            self._worker = WorkerHalf(
                index,
                lambda: forebay.Mover(settings.config, layout.chunk_bytes),
                self._incidents,
                is_watched=settings.is_watched,
            )
            return
        for warning in settings.config.warnings:
            logger.warning("%s", warning)
        warn_of_unstable_hashes(vllm_config.cache_config.prefix_caching_hash_algo)
        if transfer.kv_load_failure_policy != "recompute":
            # The scheduler reads it after it has made us. A cache must not fail a request for a chunk it
            # lost.
            logger.info("kv_load_failure_policy is set to recompute: what cannot be loaded is computed")
            transfer.kv_load_failure_policy = "recompute"
        shards = read_shards(vllm_config, kv_cache_config)
        namespaces: dict[str, list[forebay.Namespace]] = {}

        def namespaces_of(adapter: str) -> list[forebay.Namespace]:
            if adapter not in namespaces:
                salt = json.dumps([settings.cache_salt, adapter])
                revision = settings.model_revision
                namespaces[adapter] = [
                    namespace(vllm_config, kv_cache_config, layout, shard, revision=revision, salt=salt)
                    for shard in shards
                ]
            return namespaces[adapter]

        self._scheduler = SchedulerHalf(
            settings,
            layout,
            shards,
            open_control_plane(settings, layout, namespaces_of("")[0]),
            lambda request: namespaces_of(_adapter(request)),
            incidents=self._incidents,
            loads=transfer.is_kv_consumer,
            stores=transfer.is_kv_producer,
            announces=_announces(vllm_config),
        )

    @property
    def requires_kv_delivery(self) -> bool:
        return False  # a dropped store is a later miss, nothing more

    def stats(self) -> dict[str, Any]:
        """Counters of this half, its control plane or mover included."""
        half = self._scheduler or self._worker
        return half.stats() if half is not None else {}

    def shutdown(self) -> None:
        half, self._scheduler, self._worker = self._scheduler or self._worker, None, None
        if half is not None:
            stats = self._guard("shutdown", half.shutdown, {})
            logger.info("%s closed: %s", self.role.name.lower(), json.dumps(stats, default=str))

    def _guard(self, hook: str, call: Callable[[], T], otherwise: T) -> T:
        try:
            return call()
        except Exception as error:
            self._incidents.note(f"{hook}_failed", f"{type(error).__name__}: {error}")
            logger.debug("in %s", hook, exc_info=True)
            return otherwise

    # Scheduler ----------------------------------------------------------------------------------------------

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        half = self._scheduler
        if half is None:
            return 0, False
        return self._guard("lookup", lambda: half.matched_tokens(request, num_computed_tokens), (0, False))

    def update_state_after_alloc(self, request: Any, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        if (half := self._scheduler) is not None:
            self._guard("alloc", lambda: half.allocated(request, blocks.get_block_ids()[0], num_external_tokens), None)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        half = self._scheduler
        if half is None:
            return StepPlan()
        state = scheduler_output.kv_connector_block_state
        return self._guard(
            "plan",
            lambda: half.plan_step(
                scheduler_output.num_scheduled_tokens,
                scheduler_output.preempted_req_ids or (),
                lambda request_id: state.resolve_block_ids(request_id)[0],
            ),
            StepPlan(),
        )

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        half = self._scheduler
        if half is None:
            return
        report = connector_output.kv_connector_worker_meta
        if isinstance(report, StepReport):
            self._guard("report", lambda: half.take_report(report), None)
        half.load_reported(connector_output.finished_recving or ())

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        half = self._scheduler
        if half is None:
            return False, None
        return self._guard("finish", lambda: half.request_finished(request.request_id), False), None

    def has_pending_push_work(self) -> bool:
        return self._scheduler is not None and self._scheduler.work_in_flight()

    def take_events(self) -> Iterable[KVCacheEvent]:
        half = self._scheduler
        return self._guard("events", half.onlooker.take_events, []) if half is not None else []

    def get_kv_connector_stats(self) -> Tally | None:
        return self._scheduler.onlooker.take_tally() if self._scheduler is not None else None

    def reset_cache(self) -> bool | None:
        half = self._scheduler
        return self._guard("clear", half.clear, False) if half is not None else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> Tally:
        return Tally(data=data or {})

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: VllmConfig, metric_types: Any, labelnames: Any, per_engine_labelvalues: Any
    ) -> PromMetrics:
        return PromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    # Worker -------------------------------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        if self._worker is not None:
            self._worker.register(open_pages(self._layout, kv_caches))

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        half = self._worker
        if half is not None and isinstance(kv_connector_metadata, StepPlan):
            self._guard("preemption", lambda: half.before_overwriting(kv_connector_metadata), None)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        if (half := self._worker) is not None:
            self._guard("load", lambda: half.start_loads(self._step()), None)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads end before their request is scheduled."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Whole chunks are taken after the forward pass."""

    def wait_for_save(self) -> None:
        if (half := self._worker) is not None:
            self._guard("store", lambda: half.start_stores(self._step()), None)
            self._guard("copy", lambda: half.start_copies(self._step()), None)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        half = self._worker
        if half is None:
            return None, None
        sent, received = self._guard("progress", lambda: half.finished(self._step()), (set(), set()))
        return sent or None, received or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._worker.take_failed_blocks() if self._worker is not None else set()

    def build_connector_worker_meta(self) -> StepReport | None:
        return self._worker.take_report() if self._worker is not None else None

    def _step(self) -> StepPlan:
        plan = self._connector_metadata
        return plan if isinstance(plan, StepPlan) else StepPlan()


def _adapter(request: Any) -> str:
    lora = request.lora_request
    return lora_identity(lora.lora_path) if lora is not None else ""


def _announces(vllm_config: VllmConfig) -> bool:
    events = vllm_config.kv_events_config
    return events is not None and events.enable_kv_cache_events


def _speak_through_vllm() -> None:
    """vLLM gives handlers to its own loggers only, and its processes are not the user's to configure: our
    records go the way of its own."""
    logging.getLogger("forebay").parent = logging.getLogger("vllm")
