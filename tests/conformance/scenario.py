# SPDX-License-Identifier: Apache-2.0
"""
The indexes that the cases read.

A write can take minutes to be applied. A run therefore writes all vectors to one index in three steps, waits
three times, and then runs all cases. No case changes data that another case reads.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests

from conformance.account import NoAnswer
from conformance.service import DIMENSIONS, Service, codes, mutation, result

#: The names of a run begin with this and a random part.
PREFIX = "conformance"
#: Radians between the vectors of the scenario, so that each has another score.
STEP = 0.1

METADATA_INDEXES = {
    "colour": "string",
    "size": "number",
    "big": "boolean",
    "maker.name": "string",
    "opt": "string",
    "mixed": "string",
    "price": "number",
}
SHELF = {
    "shelf-a": {"colour": "red", "size": 1, "big": False, "maker": {"name": "acme", "town": "Oslo"}},
    "shelf-b": {"colour": "red", "size": 2, "big": True, "maker": {"name": "bolt", "town": "Rome"}},
    "shelf-c": {"colour": "blue", "size": 3, "big": False, "maker": {"name": "acme", "town": "Riga"}},
    "shelf-d": {"colour": "green", "size": 4, "big": True, "maker": {"name": "bolt", "town": "Bonn"}},
    "shelf-e": {"colour": "amber", "size": 5.5, "big": False, "maker": {"name": "cogs", "town": "Cork"}},
}
#: Nulls, and values of other types than their metadata index's: the four vectors of Mastra's tests.
MIXED = {
    "mixed-a": {"opt": "exists", "mixed": "string value", "price": 100},
    "mixed-b": {"opt": None, "mixed": 10, "price": 200},
    "mixed-c": {"mixed": False, "price": 150},
    "mixed-d": {"mixed": True, "price": 75},
}
#: 80 and 79 bytes of UTF-8; the 64th byte of the second is in the middle of a character.
LONG_COLOUR = "long-" * 16
LONG_UMLAUTS = "x" + "ä" * 39
#: More ids than a page of ``list`` has without a count.
BULK = [f"bulk-{number:03}" for number in range(105)]
DELETED = ["deleted-1", "deleted-2", "deleted-3"]
FIRST = ["old-1", "old-2", "kept", "replaced", *DELETED]
SECOND = ["inserted", *SHELF, "outside", "long-1", "long-2", "null", "bare", "plain", *MIXED, *BULK]


def turned(step: int) -> list[float]:
    """Return a vector of length 1, at an angle of some steps to ``turned(0)``."""
    angle = step * STEP
    return [math.cos(angle), math.sin(angle), *[0.0] * (DIMENSIONS - 2)]


def vector(vector_id: str, step: int = 0, **more: Any) -> dict[str, Any]:
    return {"id": vector_id, "values": turned(step), **more}


class Lab:
    """
    Creates indexes with unique names, and removes them.

    :param service: The service.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.created: list[str] = []
        self._there: list[str] = []
        self._random = secrets.token_hex(4)

    def name(self, suffix: str) -> str:
        """Return a name that no other run uses."""
        return f"{PREFIX}-{self._random}-{suffix}"

    def create(self, body: dict[str, Any]) -> requests.Response:
        """Request an index with a name of :meth:`name`. It is removed at the end if it may exist."""
        name = body["name"]
        assert self._random in name, "the name may belong to another user"
        try:
            response = self.service.create(body)
        except BaseException:
            # The response was lost or not awaited. The index may exist.
            self._there.append(name)
            raise
        if response.ok or response.status_code >= 500:
            self._there.append(name)
        if response.ok:
            self.created.append(name)
        return response

    def index(self, suffix: str, metric: str = "cosine", **more: Any) -> str:
        """Create an index and return its name."""
        body = {
            "name": self.name(suffix),
            "config": {"dimensions": DIMENSIONS, "metric": metric},
            **more,
        }
        result(self.create(body))
        return str(body["name"])

    def remove(self, name: str) -> requests.Response:
        """Delete an index."""
        response = self.service.send("DELETE", f"/{name}")
        if response.ok or {3000, 3005} & set(codes(response)):
            self._there = [there for there in self._there if there != name]
        return response

    def remove_all(self) -> list[str]:
        """Delete all remaining indexes, and return the names of those that could not be deleted."""
        for _ in range(3):
            for name in list(dict.fromkeys(self._there)):
                try:
                    self.remove(name)
                except NoAnswer:
                    continue
        return list(dict.fromkeys(self._there))


@dataclass
class Scenario:
    """
    The writes to the index, and the responses to them.

    :param service: The service.
    :param name: The index.
    :param created: The response to its creation.
    :param empty: ``info`` before the first mutation.
    """

    service: Service
    name: str
    created: requests.Response
    empty: dict[str, Any]
    #: All mutation ids in the order of acceptance, by description.
    mutations: dict[str, str] = field(default_factory=dict)
    #: ``info`` right after the last mutation was applied.
    settled: dict[str, Any] = field(default_factory=dict)
    #: ``info`` after the metadata indexes were applied, before any newer mutation.
    indexed: dict[str, Any] = field(default_factory=dict)
    #: Pages of a listing: the first from before the third step, the others from after it.
    pages: list[requests.Response] = field(default_factory=list)
    #: Seconds from the watermark until each view showed the vectors of the first step.
    behind: dict[str, float] = field(default_factory=dict)

    @classmethod
    def run(cls, lab: Lab) -> Scenario:
        """Create the index and run all steps."""
        service = lab.service
        body = {
            "name": lab.name("docs"),
            "description": "made by the conformance suite",
            "config": {"dimensions": DIMENSIONS, "metric": "cosine"},
        }
        created = lab.create(body)
        result(created)
        self = cls(service, body["name"], created, service.info(body["name"]))
        self._write_first()
        self._create_metadata_indexes()
        self._write_second()
        return self

    def _did(self, what: str, response: requests.Response) -> str:
        self.mutations[what] = mutation(response)
        return self.mutations[what]

    def _write_first(self) -> None:
        old = [vector("old-1", 1, namespace="old", metadata={"colour": "red"})]
        old += [vector("old-2", 2, namespace="old", metadata={"colour": "red"})]
        old += [vector("kept", 3, metadata={"colour": "red", "version": 1})]
        old += [vector("replaced", 4, namespace="first", metadata={"colour": "red", "only_first": True})]
        old += [vector(name, 5) for name in DELETED]
        self.service.wait_for(self.name, self._did("upsert", self.service.upsert(self.name, old)))
        self._watch_views()
        self.pages.append(self.service.page(self.name, count=3))
        assert result(self.pages[0])["totalCount"] == len(FIRST)

    def _watch_views(self) -> None:
        service, name, there = self.service, self.name, len(FIRST)
        views: dict[str, Callable[[], int]] = {
            "get_by_ids": lambda: len(service.found(name, *FIRST)),
            "query": lambda: int(result(service.query(name, turned(0), topK=100))["count"]),
            "list": lambda: int(result(service.page(name))["totalCount"]),
            "vectorCount": lambda: int(service.info(name)["vectorCount"]),
        }
        applied = time.monotonic()

        def poll() -> None:
            for view, count in views.items():
                if view not in self.behind and count() == there:
                    self.behind[view] = round(time.monotonic() - applied, 2)
            assert set(self.behind) == set(views), f"seen so far: {self.behind}"

        service.eventually(poll)

    def _create_metadata_indexes(self) -> None:
        for property_name, index_type in METADATA_INDEXES.items():
            response = self.service.create_metadata_index(self.name, property_name, index_type)
            last = self._did(f"create metadata index {property_name}", response)
        self.indexed = self.service.wait_for(self.name, last)

    def _write_second(self) -> None:
        service, name = self.service, self.name
        new = [
            vector(key, 1 + step, namespace="shelf", metadata=m)
            for step, (key, m) in enumerate(SHELF.items())
        ]
        new += [vector(key, 13, namespace="mixed", metadata=m) for key, m in MIXED.items()]
        new += [vector("outside", 0, namespace="yard", metadata={"colour": "red", "size": 1})]
        new += [vector("long-1", 8, namespace="long", metadata={"colour": LONG_COLOUR})]
        new += [vector("long-2", 9, namespace="long", metadata={"colour": LONG_UMLAUTS})]
        new += [vector("null", 10, namespace="nulls", metadata={"colour": None, "size": 1})]
        new += [vector("bare", 11, namespace="nulls", metadata={"size": 1})]
        new += [vector("plain", 12)]
        new += [vector(key, 20, namespace="bulk") for key in BULK]
        new += [vector("old-2", 2, namespace="old", metadata={"colour": "red"})]
        # As a form, the second way to send vectors.
        form = {"files": {"vectors": ("vectors.ndjson", ndjson(new), "application/x-ndjson")}}
        self._did("upsert of a form", service.send("POST", f"/{name}/upsert", **form))
        inserted = [vector("kept", 30, metadata={"version": 2}), vector("inserted", 6)]
        self._did("insert", service.insert(name, inserted))
        again = [vector("replaced", 7, metadata={"colour": "blue"})]
        self._did("upsert again", service.upsert(name, again))
        self.settled = service.wait_for(name, self._did("delete_by_ids", service.delete(name, DELETED)))
        self._see(lambda: service.found(name, *DELETED, "inserted", "shelf-a"), {"inserted", "shelf-a"})
        while True:
            cursor = result(self.pages[-1]).get("nextCursor")
            if not cursor:
                break
            self.pages.append(service.page(name, count=3, cursor=cursor))
            if not self.pages[-1].ok:
                break

    def _see(self, look: Callable[[], Any], expected: set[str]) -> None:
        def check() -> None:
            assert set(look()) == expected

        self.service.eventually(check)


def ndjson(vectors: list[dict[str, Any]]) -> str:
    return "\n".join(map(json.dumps, vectors))


def remaining() -> set[str]:
    """Return the ids that exist after all steps."""
    return {*FIRST, *SECOND} - set(DELETED)
