import pytest

from longseal.batches import MAX_BATCHES, batch_size, divided


@pytest.mark.parametrize(
    ("count", "usual", "most", "size"),
    [(0, 3, 9, 3), (7, 3, 9, 3), (9, 1, 4, 3), (8, 1, 4, 2), (10, 9, 1, 10)],
)
def test_batches_are_larger_where_there_would_be_too_many(
    count: int, usual: int, most: int, size: int
) -> None:
    assert batch_size(count, usual, most) == size


@pytest.mark.parametrize("count", [0, 1, 3, 7, MAX_BATCHES * 3, MAX_BATCHES * 3 + 1])
def test_each_item_is_in_one_batch_and_all_keep_their_order(count: int) -> None:
    batches = divided(range(count), 3)
    assert [item for batch in batches for item in batch] == list(range(count))
    assert len(batches) <= MAX_BATCHES
    assert all(batches)
