"""One value per object, found by identity."""

from model_repository.prepared import MOST_ENTRIES, Prepared


def test_made_once_per_object_and_made_again_after_many_others():
    made: list[list[int]] = []

    def make(key: list[int]) -> int:
        made.append(key)
        return len(made)

    prepared = Prepared(make)
    first, equal = [1], [1]
    assert [prepared(first), prepared(first), prepared(equal)] == [1, 1, 2]
    for number in range(MOST_ENTRIES):
        prepared([number])
    assert prepared(first) == len(made) == MOST_ENTRIES + 3
