"""Questions that come all at once are let through a few at a time, in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from webui.doorstep import Doorstep


async def test_a_few_are_let_through_and_each_that_leaves_lets_the_next_one_in() -> None:
    doorstep, inside = Doorstep(), list[int]()
    leaves = dict[int, Callable[[], None]]()

    async def come(number: int) -> None:
        leaves[number] = await doorstep.enter()
        inside.append(number)

    coming = [asyncio.create_task(come(number)) for number in range(6)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert inside == [0, 1, 2, 3]
    leaves[2]()
    leaves[2]()  # a second time lets nobody in
    await asyncio.wait({coming[4]})
    await asyncio.sleep(0)
    assert inside == [0, 1, 2, 3, 4]
    leaves[0]()
    await asyncio.gather(*coming)
    assert inside == [0, 1, 2, 3, 4, 5]


async def test_those_who_have_to_wait_do_not_keep_others_waiting() -> None:
    doorstep = Doorstep()
    async with asyncio.timeout(30):
        for _ in range(9):  # nobody leaves
            await doorstep.enter()
