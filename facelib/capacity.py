"""What fits on a cluster at once, so that nothing waits for ever for what something else holds."""

from collections.abc import Mapping, Sequence

Resources = Mapping[str, float]


def fits(nodes: Sequence[Resources], pieces: Sequence[Resources]) -> bool:
    """Whether all pieces can be placed on these nodes at the same time; none is cut.

    The largest are placed first, and on nodes with GPUs only where nothing else has room: not every arrangement is
    tried, but those that schedulers find.
    """
    free = sorted((dict(node) for node in nodes), key=lambda node: node.get("GPU", 0))
    largest_first = sorted(pieces, key=lambda piece: (piece.get("GPU", 0), piece.get("CPU", 0)), reverse=True)
    return all(_place(free, piece) for piece in largest_first)


def trials_that_fit(
    nodes: Sequence[Resources], worker: Resources, workers: int, reader_cpus: float, readers: int
) -> int:
    """Number of whole trials, workers and readers, that can be placed on these nodes at the same time.

    Counted by placing them one after the other, each piece on the first node with room; pieces are not cut.

    Args:
        nodes: what each node has, e.g. {"CPU": 16, "GPU": 2}.
        worker: what each of a trial's workers reserves.
        workers: of one trial.
        reader_cpus: what one reading task reserves.
        readers: of one worker at a time; a trial that must be alone gets along with one.
    """
    count = _count(nodes, worker, workers, reader_cpus, readers)
    return count or min(_count(nodes, worker, workers, reader_cpus, 1), 1)


def _count(nodes: Sequence[Resources], worker: Resources, workers: int, reader_cpus: float, readers: int) -> int:
    free = [dict(node) for node in nodes]
    reader = {"CPU": reader_cpus}
    count = 0
    while all(_place(free, piece) for piece in [*[worker] * workers, *[reader] * (readers * workers)]):
        count += 1
        if count >= 10_000:
            break  # Reserving nothing fits any number of times.
    return count


def _place(free: list[dict[str, float]], piece: Resources) -> bool:
    for node in free:
        if all(node.get(name, 0) >= amount - 1e-9 for name, amount in piece.items()):
            for name, amount in piece.items():
                node[name] = node.get(name, 0) - amount
            return True
    return False
