"""How a handle is awaited: its end, told on a thread of Forebay's, is carried to the event loop that waits."""

import asyncio
import contextlib
from typing import Any

from forebay._native import Handle


async def wait_for(handle: Handle) -> list[Any]:
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def resolve() -> None:
        if not done.done():
            done.set_result(None)

    def tell() -> None:
        # The loop may have been closed by the time the batch ends; then nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(resolve)

    handle._on_done(tell)
    await done
    return handle.wait(0)
