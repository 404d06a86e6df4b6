# SPDX-License-Identifier: Apache-2.0
"""
The vector search: a view of an index at one state, and the search for the vectors nearest to a query.

Scores are exact: values are float32, as on the service, and all computations use float64.
"""

from __future__ import annotations

import json
import struct
import threading
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from airflow_provider_cfvectorize.local import errors
from airflow_provider_cfvectorize.local.engine import metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from airflow_provider_cfvectorize.local.behaviour import Behaviour
    from airflow_provider_cfvectorize.local.engine.metadata import Absent
    from airflow_provider_cfvectorize.local.engine.model import (
        IndexConfig,
        MetadataIndex,
        Query,
        Value,
        Vector,
    )

#: Numbers to convert to float64 at a time: 8 MiB. A conversion of the whole index would take twice its
#: memory, and a chunk is still in the processor's cache when it is used.
_CHUNK: Final = 1024 * 1024


class Recall(NamedTuple):
    """
    The chance that a search finds a match.

    :param share: The chance, from 0 to 1.
    :param seed: The seed. The choice depends on it, the vector's id and the query vector, and nothing else.
    """

    share: float
    seed: int

    def finds(self, vector: Sequence[float]) -> Callable[[str], bool]:
        """Return a function that says whether a query with this vector finds the vector with an id."""
        drawn_from = struct.pack(f"<{len(vector)}d", *vector) + str(self.seed).encode()
        key = blake2b(drawn_from, digest_size=32).digest()

        def found(vector_id: str) -> bool:
            drawn = blake2b(vector_id.encode(), digest_size=6, key=key).digest()
            return int.from_bytes(drawn) < self.share * 2**48

        return found


class View:
    """
    A snapshot of an index for searches.

    It never changes, so that a search can run in a thread while the index changes. The first search that
    needs them builds a matrix of the values and a column for each metadata index; the view keeps both.
    """

    def __init__(
        self,
        config: IndexConfig,
        vectors: Mapping[str, Vector],
        metadata_indexes: Mapping[str, MetadataIndex],
        behaviour: Behaviour,
    ) -> None:
        #: The number of values in all vectors together.
        self.size = len(vectors) * config.dimensions
        self._metric = config.metric
        self._dimensions = config.dimensions
        self._vectors = tuple(vectors.values())
        self._metadata_indexes = dict(metadata_indexes)
        self._behaviour = behaviour
        self._lock = threading.Lock()
        self._matrix: NDArray[np.float32] | None = None
        self._columns: dict[str, list[Value | Absent]] | None = None

    def search(self, query: Query, vector: Sequence[float], recall: Recall) -> list[dict[str, Any]]:
        """
        Return the matches of a query, the nearest first.

        The score depends on the metric:

        ``cosine``
            The cosine of the angle between the two vectors, from -1 to 1, the largest first. It is 0 if all
            values of one vector are 0.
        ``euclidean``
            The distance, 0 or more, the *smallest* first.
        ``dot-product``
            The dot product, the largest first. The switch ``dot_product_score`` can negate it, with the
            smallest first; the order of the matches stays.

        Matches with equal scores are in the order of their ids, by code point.

        :param recall: The chance that it finds a match. The next-best vectors replace missed matches.
        :raises ApiError: A switch refuses a condition: its property has no metadata index, or one of another
            type.
        """
        rows = self._rows(query)
        if recall.share < 1:
            finds = recall.finds(vector)
            rows = [row for row in rows if finds(self._vectors[row].id)]
        scores, ascending = self._scores(rows, vector)
        nearest = self._nearest(rows, scores if ascending else -scores, query.top_k)
        return [self._match(query, self._vectors[rows[place]], float(scores[place])) for place in nearest]

    # --- namespace and filter --------------------------------------------------------------------------

    def _rows(self, query: Query) -> Sequence[int]:
        filters = []
        is_indexed = True
        for condition in query.conditions:
            index = self._metadata_indexes.get(condition.property)
            if index is not None:
                filters.append((index.property, metadata.predicate(condition, index.type, self._behaviour)))
            elif self._behaviour.unindexed_filter_property == "refuse":
                raise errors.refusal(
                    "invalid_filter",
                    detail=f'there is no metadata index for property "{condition.property}"',
                )
            else:
                is_indexed = False
        if not is_indexed:
            return []
        rows: Sequence[int] = range(len(self._vectors))
        if query.namespace is not None:
            rows = [row for row, vector in enumerate(self._vectors) if vector.namespace == query.namespace]
        if not filters:
            return rows
        with self._lock:
            if self._columns is None:
                indexes = self._metadata_indexes.values()
                self._columns = metadata.columns(self._vectors, indexes, self._behaviour)
        for name, matches in filters:
            column = self._columns[name]
            rows = [
                row
                for row in rows
                if not isinstance(value := column[row], metadata.Absent) and matches(value)
            ]
        return rows

    # --- scores ----------------------------------------------------------------------------------------

    def _values(self) -> NDArray[np.float32]:
        import numpy as np

        with self._lock:
            if self._matrix is None:
                matrix = np.empty((len(self._vectors), self._dimensions), dtype=np.float32)
                step = max(1, _CHUNK // self._dimensions)
                for start in range(0, len(self._vectors), step):
                    packed = b"".join(vector.values for vector in self._vectors[start : start + step])
                    matrix[start : start + step] = np.frombuffer(packed, dtype="<f4").reshape(
                        -1, self._dimensions
                    )
                self._matrix = matrix
        return self._matrix

    def _scores(self, rows: Sequence[int], vector: Sequence[float]) -> tuple[NDArray[np.float64], bool]:
        import numpy as np

        matrix = self._values()
        target = np.array(vector, dtype=np.float64)
        length = float(np.sqrt(np.einsum("i,i->", target, target)))
        scores = np.empty(len(rows), dtype=np.float64)
        everything = isinstance(rows, range)
        chosen = None if everything else np.array(rows, dtype=np.intp)
        step = max(1, _CHUNK // self._dimensions)
        for start in range(0, len(rows), step):
            end = start + step
            part = (matrix[start:end] if chosen is None else matrix[chosen[start:end]]).astype(np.float64)
            # einsum, not a matrix product: it sums each row in one fixed order, wherever the row is, so that
            # equal vectors have scores that are equal to the last bit.
            if self._metric == "euclidean":
                part -= target
                scores[start:end] = np.sqrt(np.einsum("ij,ij->i", part, part))
                continue
            scores[start:end] = np.einsum("ij,j->i", part, target)
            if self._metric == "cosine":
                lengths = np.sqrt(np.einsum("ij,ij->i", part, part)) * length
                lengths[lengths == 0] = np.inf
                scores[start:end] /= lengths
        if self._metric == "cosine":
            np.clip(scores, -1, 1, out=scores)
        elif self._metric == "dot-product" and self._behaviour.dot_product_score == "negative":
            return -scores, True
        return scores, self._metric == "euclidean"

    def _nearest(self, rows: Sequence[int], keys: NDArray[np.float64], count: int) -> list[int]:
        import numpy as np

        places = np.arange(len(keys))
        if count < len(keys):
            # Include all that tie with the last wanted match; the order of the ids decides between them.
            places = np.flatnonzero(keys <= np.partition(keys, count - 1)[count - 1])
        ordered = sorted(
            (float(keys[place]), self._vectors[rows[place]].id, place) for place in places.tolist()
        )
        return [place for _, _, place in ordered[:count]]

    def _match(self, query: Query, vector: Vector, score: float) -> dict[str, Any]:
        # Turn -0.0 into 0.0.
        shown: dict[str, Any] = {"id": vector.id, "score": score + 0.0}
        if query.values:
            shown["values"] = vector.floats()
        if query.metadata != "none" and vector.metadata is not None:
            if query.metadata == "all":
                shown["metadata"] = json.loads(vector.metadata)
            else:
                shown["metadata"] = metadata.indexed_only(
                    vector, self._metadata_indexes.values(), self._behaviour
                )
        if vector.namespace is not None:
            shown["namespace"] = vector.namespace
        return shown
