"""The `fs` tier of vLLM's native offloading, driven without an engine. Run by ../robustness_rounds.py.

A prompt goes through the manager of its tiers, whose primary tier is the memory; everything else through the `fs` tier.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
from act import Subject, poison, run
from peer import Content
from vllm.v1.kv_offload.base import LookupResult, ReqContext, ScheduleEndContext
from vllm.v1.kv_offload.tiering.manager import CPUPrimaryTierOffloadingManager, TieringOffloadingManager
from vllm_fs import VllmFs


class Asked(Subject):
    def __init__(self, options: argparse.Namespace, content: Content) -> None:
        super().__init__(VllmFs(options), content)
        self._slots = options.batch

    def put(self, chunks: Sequence[int]) -> list[str]:
        self.fill(chunks, self.peer.room(chunks))
        jobs = self.peer._jobs_for(chunks, promotion=False)
        for job in jobs:
            self.peer._tier.submit_store(job)
        return ["stored" if stored else "failed" for stored in self.peer._succeeded(jobs)]

    def prompt(self, chunks: Sequence[int]) -> list[memoryview | None]:
        """Through the manager of the tiers, step by step as its scheduler does, until nothing is under way."""
        region, tier = self.peer._region, self.peer._tier
        manager = TieringOffloadingManager(CPUPrimaryTierOffloadingManager(self._slots, region), [tier])
        request = ReqContext(req_id="prompt")
        manager.on_new_request(request)
        keys = [self.peer._key(chunk) for chunk in chunks]
        while True:
            answers = []
            for key in keys:
                answers.append(manager.lookup(key, request))
                if answers[-1] is LookupResult.MISS:
                    break
            hits = [answer for answer in answers if answer is LookupResult.HIT]
            if len(hits) >= len(answers) - (answers[-1] is LookupResult.MISS):
                break
            manager.on_schedule_end(ScheduleEndContext((), ()))
            tier.drain_jobs()
            time.sleep(0.01)
        there = len(hits)
        slots = manager.prepare_load(keys[:there], request).chunk_ids if there else []
        whole = np.asarray(self.peer._view)
        return [memoryview(whole[slot]) for slot in slots] + [None] * (len(chunks) - there)

    def poison(self) -> None:
        poison(self.peer.room(range(self._slots)))


if __name__ == "__main__":
    run(Asked)
