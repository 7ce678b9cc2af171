"""The fewest channels to keep so that widths that share channels are good all at once."""

import heapq
from itertools import count

__all__ = ["fewest", "good"]

_STATES = 5000  # states of the exact search before it goes on greedily


def good(width: int, dense: int, multiple: int) -> bool:
    """Whether a width is a multiple, or the dense one, beyond which there is none.

    Example:
        >>> good(16, 20, 8), good(20, 20, 8), good(18, 20, 8)
        (True, True, False)
    """
    return width % multiple == 0 or width == dense


def fewest(widths: list[int], dense: list[int], add: list[list[int]], available: list[int], multiple: int) -> list[int]:
    """How many units of each kind to keep, in total as few as possible, so that every width is good.

    A width is good if it is a multiple of `multiple` or the dense one. The search is exact (best first: a wrong width
    needs one more unit of some kind on its axis) until it gets long, then greedy.

    Args:
        widths: ``(A,)`` width of each axis as it is.
        dense: ``(A,)`` its width when everything is kept.
        add: ``(A, K)`` positions on the axis that one unit of the kind adds.
        available: ``(K,)`` units of each kind that can be kept.
        multiple: what widths shall be a multiple of.

    Returns:
        ``(K,)`` units of each kind; keeping all of them is good, so there is always an answer.

    Example:
        >>> fewest([5, 3, 8], [16, 16, 32], [[1, 0], [0, 1], [1, 1]], [11, 13], 4)
        [3, 1]
    """
    kinds = [[k for k, n in enumerate(row) if n and available[k]] for row in add]

    def width(axis: int, more: tuple[int, ...]) -> int:
        return widths[axis] + sum(add[axis][k] * more[k] for k in kinds[axis])

    def wrong(more: tuple[int, ...]) -> list[int]:
        return [a for a in range(len(widths)) if not good(width(a, more), dense[a], multiple)]

    def at_least(more: tuple[int, ...], axes: list[int]) -> int:
        found = 0
        for axis in axes:
            now = width(axis, more)
            missing = min(-now % multiple, dense[axis] - now)
            found = max(found, -(-missing // max(add[axis][k] for k in kinds[axis])))
        return found

    order = count()
    start = (0,) * len(available)
    queue: list[tuple[int, int, tuple[int, ...]]] = [(0, next(order), start)]
    seen = {start}
    while queue:
        _, turn, more = heapq.heappop(queue)
        axes = [a for a in wrong(more) if any(more[k] < available[k] for k in kinds[a])]
        if not axes:
            return list(more)
        # The axis with the fewest kinds to choose from: most have one, and then there is nothing to search.
        axis = min(axes, key=lambda a: sum(more[k] < available[k] for k in kinds[a]))
        if turn > _STATES:
            queue.clear()
        for kind in kinds[axis]:
            child = (*more[:kind], more[kind] + 1, *more[kind + 1 :])
            if more[kind] < available[kind] and child not in seen:
                seen.add(child)
                left = at_least(child, [a for a in axes if width(a, child) < dense[a]])
                heapq.heappush(queue, (sum(child) + left, next(order), child))
    return list(available)
