"""Whose blocks hold which positions: what is shared, what is copied, and what moves out when room is needed."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from conifer_gguf.engine.blocks import BLOCK, KV, BlockCache, Blocks

SPEC = KV(n_head_kv=2, d_k=4, d_v=3)
N_ROW = 5 * BLOCK


@pytest.fixture(name="blocks")
def two_slots() -> Iterator[Blocks]:
    blocks = Blocks(2, N_ROW)
    yield blocks
    blocks.close()


@pytest.fixture(name="cache")
def one_layer(blocks: Blocks) -> BlockCache:
    return blocks.cache(SPEC, "f32")


def fill(blocks: Blocks, cache: BlockCache, slot: int, first: int, end: int, value: int) -> None:
    """As a step would: positions first .. end - 1 hold bytes of `value`."""
    blocks.grow(slot, end)
    mine = blocks.table.blocks(slot)
    for position in range(first, end):
        for pool in cache._pools():
            pool[mine[position // BLOCK], :, position % BLOCK] = value


def held(blocks: Blocks, cache: BlockCache, slot: int, n: int) -> list[int]:
    """The value of each position, which must be the same in every head and pool."""
    mine = blocks.table.blocks(slot)
    rows = [np.concatenate([pool[b] for b in mine], 1)[:, :n] for pool in cache._pools()]
    values = np.concatenate([r.transpose(1, 0, 2).reshape(n, -1) for r in rows], 1)
    assert (values == values[:, :1]).all()
    return [int(v) for v in values[:, 0]]


def test_a_sequence_gets_blocks_as_it_grows_and_gives_them_back(blocks: Blocks) -> None:
    blocks.grow(0, BLOCK)
    assert blocks.table.blocks(0) == [0]
    blocks.grow(0, BLOCK + 1)
    blocks.grow(0, BLOCK + 2)
    assert blocks.table.blocks(0) == [0, 1]
    blocks.clear(0)
    assert blocks.table.n_free == 10


def test_a_fork_shares_full_blocks_and_copies_the_last(blocks: Blocks, cache: BlockCache) -> None:
    fill(blocks, cache, 0, 0, 2 * BLOCK + 7, 1)
    blocks.fork(0, 1, 2 * BLOCK + 7)
    assert blocks.table.blocks(1)[:2] == blocks.table.blocks(0)[:2]
    assert blocks.table.blocks(1)[2] != blocks.table.blocks(0)[2]
    fill(blocks, cache, 0, 2 * BLOCK + 7, 3 * BLOCK, 2)
    fill(blocks, cache, 1, 2 * BLOCK + 7, 2 * BLOCK + 9, 3)
    assert held(blocks, cache, 0, 3 * BLOCK) == [1] * (2 * BLOCK + 7) + [2] * (BLOCK - 7)
    assert held(blocks, cache, 1, 2 * BLOCK + 9) == [1] * (2 * BLOCK + 7) + [3] * 2


def test_a_snapshot_costs_the_rows_of_its_last_block_alone(blocks: Blocks, cache: BlockCache) -> None:
    fill(blocks, cache, 0, 0, 3 * BLOCK + 5, 1)
    kept = blocks.save(0, 3 * BLOCK + 5)
    assert kept.nbytes == 5 * 4 * SPEC.elements
    assert blocks.save(0, 3 * BLOCK).nbytes == 0
    fill(blocks, cache, 0, 3 * BLOCK + 5, 4 * BLOCK, 2)
    blocks.clear(0)
    assert blocks.table.n_free == 7
    blocks.load(1, kept, 3 * BLOCK + 5)
    assert held(blocks, cache, 1, 3 * BLOCK + 5) == [1] * (3 * BLOCK + 5)


def test_blocks_return_when_the_last_snapshot_that_holds_them_is_gone(
    blocks: Blocks, cache: BlockCache
) -> None:
    fill(blocks, cache, 0, 0, 2 * BLOCK, 1)
    first, second = blocks.save(0, 2 * BLOCK), blocks.save(0, BLOCK)
    blocks.clear(0)
    del first
    gc.collect()
    assert blocks.table.n_free == 9
    del second
    gc.collect()
    assert blocks.table.n_free == 10


def test_old_snapshots_move_out_when_sequences_need_their_room(blocks: Blocks, cache: BlockCache) -> None:
    fill(blocks, cache, 0, 0, 4 * BLOCK, 1)
    old = blocks.save(0, 4 * BLOCK)
    blocks.clear(0)
    fill(blocks, cache, 0, 0, 3 * BLOCK, 2)
    new = blocks.save(0, 3 * BLOCK)
    blocks.clear(0)
    fill(blocks, cache, 0, 0, N_ROW, 3)
    assert old.nbytes == 4 * BLOCK * 4 * SPEC.elements
    assert new.nbytes == 0
    fill(blocks, cache, 1, 0, N_ROW, 4)
    assert new.nbytes == 3 * BLOCK * 4 * SPEC.elements
    assert held(blocks, cache, 0, N_ROW) == [3] * N_ROW
    assert blocks.table.n_free == 0
    blocks.clear(1)
    blocks.load(1, old, 4 * BLOCK)
    assert held(blocks, cache, 1, 4 * BLOCK) == [1] * (4 * BLOCK)
    blocks.clear(0)
    blocks.load(0, new, 3 * BLOCK)
    assert held(blocks, cache, 0, 3 * BLOCK) == [2] * (3 * BLOCK)


def test_a_latent_layer_keeps_no_values(blocks: Blocks) -> None:
    cache = blocks.cache(KV(1, 8, 6, latent=True), "f32")
    blocks.grow(0, 9)
    kept = blocks.save(0, 9)
    assert kept.nbytes == 9 * 8 * 4
    assert cache.values.shape == (0, 1, BLOCK, 6)
