"""What is kept of earlier calls stays within its bounds."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quantus_ext.memory import Memory

_OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "get", "grow"]), st.integers(0, 5), st.integers(0, 40)),
    max_size=60,
)


@given(_OPERATIONS)
def test_the_newest_stay_and_no_more_than_there_is_room_for(operations):
    memory: Memory[bytearray] = Memory(len, most_entries=4, most_bytes=100)
    order: list[int] = []
    values: dict[int, bytearray] = {}
    for operation, key, size in operations:
        if operation == "put":
            values[key] = bytearray(size)
            memory.put(str(key), values[key])
            order = [*(each for each in order if each != key), key]
            while len(order) > 1 and (
                len(order) > 4 or sum(len(values[each]) for each in order) > 100
            ):
                order.pop(0)
            assert [memory._entries.get(str(each)) for each in order] == [*map(values.get, order)]
            assert len(memory._entries) == len(order)
        elif operation == "get":
            found = memory.get(str(key))
            assert found is (values[key] if key in order else None)
            if key in order:
                order = [*(each for each in order if each != key), key]
        elif key in order:
            values[key].extend(bytes(size))


def test_many_small_entries_are_not_measured_again_each_time():
    measured = 0

    def size(value: np.ndarray) -> int:
        nonlocal measured
        measured += 1
        return value.nbytes

    memory: Memory[np.ndarray] = Memory(size, most_entries=1000, most_bytes=2**30)
    for key in range(3000):
        memory.put(str(key), np.empty(1))
    assert measured <= 16 * 3000
    memory.clear()
    memory.put("a", np.empty(1))
    assert memory._held == 8
