# SPDX-License-Identifier: Apache-2.0
"""The report of a run: records the answers to probes, and shows them as a table or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests

#: Headers to show if a response has them.
HEADERS = ("Retry-After", "Ratelimit", "Ratelimit-Policy")
WIDTH = 58


@dataclass(frozen=True)
class Answer:
    """
    The answer to a probe.

    :param question: The question of the probe.
    :param asked: The request, or the observed property.
    :param answered: The answer in one line.
    :param status: The HTTP status; None if the answer is not a response.
    :param code: The code of the first error; None without an error.
    :param message: The text of the first error.
    :param headers: The response's headers among :data:`HEADERS`.
    :param value: The result, or the observed value.
    """

    question: str
    asked: str
    answered: str
    status: int | None = None
    code: int | None = None
    message: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    value: Any = None


def of_response(question: str, asked: str, response: requests.Response, value: Any = None) -> Answer:
    """Make an answer from a response of any form."""
    headers = {name: response.headers[name] for name in HEADERS if name in response.headers}
    code = message = None
    try:
        body = response.json()
        errors = body["errors"]
        if errors:
            code, message = errors[0]["code"], errors[0]["message"]
        elif value is None:
            value = body["result"]
    except (ValueError, KeyError, TypeError, IndexError):
        message = f"not an envelope: {response.text[:200]!r}"
    parts = [str(response.status_code), *(str(part) for part in (code, message) if part is not None)]
    if code is None and message is None:
        parts.append(_short(value))
    parts += [f"{name}: {text}" for name, text in headers.items()]
    return Answer(
        question, asked, " ".join(parts), response.status_code, code, message, headers, json_able(value)
    )


def of_value(question: str, asked: str, value: Any) -> Answer:
    """Make an answer from an observed value."""
    return Answer(question, asked, _short(value), value=json_able(value))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(json_able(value), ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:160]}..."


def json_able(value: Any) -> Any:
    """Return a value as it is after a round trip through JSON."""
    return json.loads(json.dumps(value, default=str))


@dataclass
class Report:
    """
    The report of one run against one service.

    :param target: The name of the service.
    :param real: Whether the environment names a real account.
    """

    target: str
    real: bool
    started: float
    answers: list[Answer] = field(default_factory=list)
    requests: int = 0
    seconds: float = 0.0
    applied_after: list[float] = field(default_factory=list)
    created: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def table(self) -> Iterator[str]:
        """Yield the lines of the report as text."""
        yield f"{self.requests} requests to {self.target} in {self.seconds:.0f} s"
        removed = len(self.created) - len(self.left)
        yield f"indexes created: {len(self.created)}, removed: {removed}"
        if self.left:
            yield f"NOT REMOVED, remove them yourself: {', '.join(self.left)}"
        if self.applied_after:
            yield (
                f"awaited writes: {len(self.applied_after)}, applied after "
                f"{min(self.applied_after):.1f} to {max(self.applied_after):.1f} s"
            )
        for question in dict.fromkeys(sorted(answer.question for answer in self.answers)):
            yield ""
            yield question
            for answer in self.answers:
                if answer.question == question:
                    yield f"    {answer.asked:<{WIDTH}} {' '.join(answer.answered.split())}"

    def write(self, path: Path) -> None:
        """Write the report as JSON, without the account's id and tokens."""
        content = {
            "target": self.target,
            "real_account": self.real,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "requests": self.requests,
            "seconds": round(self.seconds, 1),
            "created": self.created,
            "left": self.left,
            "applied_after": [round(seconds, 2) for seconds in self.applied_after],
            "answers": [asdict(answer) for answer in self.answers],
        }
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
