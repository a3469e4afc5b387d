"""Inner products of the steps of a run: the best linear forecast of one from others, and how far it misses.

`K[i, j]` is the mean inner product of what the network gives at steps i and j. For any set of computed steps
n it fixes the weights w, summing to one, that minimise the expected squared error of step i,
`K[i, i] - 2 w·K[n, i] + w·K[n, n]·w`. Nodes on both sides of i make it an interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

# Asked for where numbers are at hand: policies load no framework.
if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]


class Gram:
    """The table K of N steps, [N, N], positive semidefinite, and the ridge that steadies the weights."""

    def __init__(self, table: Any, ridge: float) -> None:
        import numpy as np

        self.table: Array = np.array(table, dtype=np.float64)
        self.ridge = ridge
        # Far below any change between steps; keeps nodes that coincide from making the system singular.
        self._floor = 1e-12 * float(self.table.diagonal().mean())

    def __len__(self) -> int:
        return len(self.table)

    def weights(self, nodes: Sequence[int], step: int) -> tuple[float, ...]:
        """Of the values at `nodes`, in that order, for the value at `step`; they sum to one."""
        _, coefficients = self._fit(nodes, step)
        older = [a - b for a, b in pairwise([0.0, *coefficients.tolist()])]
        return (*older, 1.0 - sum(older))

    def error(self, nodes: Sequence[int], step: int) -> float:
        """The expected error of those weights, relative to the size of the value at `step` (RMS)."""
        changes, c = self._fit(nodes, step)
        squared = changes[-1, -1] - 2 * c @ changes[:-1, -1] + c @ changes[:-1, :-1] @ c
        return math.sqrt(max(float(squared), 0.0) / float(self.table[step, step]))

    def _fit(self, nodes: Sequence[int], step: int) -> tuple[Array, Array]:
        """Inner products of the changes from node to node and of that from the newest to `step`, [m, m], and
        the coefficients of the former that come nearest to the latter: least squares with `ridge` times the
        diagonal added.
        """
        import numpy as np

        order = np.array([*nodes, step])
        products = self.table[order[:, None], order]
        products = products[1:] - products[:-1]
        changes = products[:, 1:] - products[:, :-1]
        system = changes[:-1, :-1].copy()
        diagonal = np.einsum("ii->i", system)
        diagonal += self.ridge * diagonal + self._floor
        return changes, np.linalg.solve(system, changes[:-1, -1])

    def errors_after(self, reuses: int) -> list[float]:
        """Expected error of the last of so many reuses in a row, wherever there is room for them: from the
        last three computed steps, or two, with as many reuses between those.
        """
        apart = reuses + 1
        newest = range(apart, len(self) - reuses)
        nodes = {n: [node for node in (n - 2 * apart, n - apart, n) if node >= 0] for n in newest}
        return [self.error(before, n + reuses) for n, before in nodes.items()]

    def resample(self, weights: Array) -> Gram:
        """The table of M mixtures of the N steps, weights [M, N]."""
        return Gram(weights @ self.table @ weights.T, self.ridge)


def mixing(measured: Sequence[float], wanted: Sequence[float]) -> Array:
    """Weights [M, N] that interpolate linearly from the N points `measured`, which rise or fall, to the M
    `wanted`; beyond the ends, the nearest. No weight is negative, and each row sums to one.
    """
    import numpy as np

    points = np.array(measured, dtype=np.float64)
    rising = points if points[0] <= points[-1] else points[::-1]
    steps = np.arange(len(points)) if points[0] <= points[-1] else np.arange(len(points))[::-1]
    place = np.interp(wanted, rising, steps)
    weights: Array = np.maximum(1 - np.abs(place[:, None] - np.arange(len(points))), 0.0)
    return weights
