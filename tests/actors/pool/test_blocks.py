"""How rows are shared out: every row once, large blocks first, small ones last."""

from __future__ import annotations

import math

import pytest

from actors.pool.blocks import GROUPS, SHARES, SMALLEST, cut_blocks, groups


@pytest.mark.parametrize("workers", [1, 2, 16])
@pytest.mark.parametrize("n", [0, 1, 5, 518])
def test_every_row_is_in_one_block(n, workers):
    blocks = cut_blocks(range(n), workers)
    assert sorted(row for block in blocks for row in block) == list(range(n))
    assert all(blocks)


def test_blocks_get_smaller():
    sizes = [len(block) for block in cut_blocks(range(1000), 2)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 1000 / (SHARES * 2)
    assert sizes[-2] == math.ceil(1000 / (SMALLEST * 2))
    assert len(sizes) < 20
    assert [len(block) for block in cut_blocks(range(8), 2)] == [2, 2, 1, 1, 1, 1]


def test_blocks_are_the_same_each_time_and_mix_the_rows():
    blocks = cut_blocks(range(100), 1)
    assert blocks == cut_blocks(range(100), 1)
    assert blocks[0] != list(range(len(blocks[0])))


@pytest.mark.parametrize("n", [1, GROUPS, GROUPS + 1, 5 * GROUPS, 131])
def test_groups_keep_the_order_and_are_few(n):
    found = list(groups(range(n)))
    assert [row for group in found for row in group] == list(range(n))
    assert len(found) <= GROUPS
    assert len(found) == min(n, GROUPS) or n % GROUPS
