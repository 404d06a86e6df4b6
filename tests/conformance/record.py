# SPDX-License-Identifier: Apache-2.0
"""What the probes were answered: kept, shown as a table, written as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests

#: Headers that are worth a line when they are there.
HEADERS = ("Retry-After", "Ratelimit", "Ratelimit-Policy")
WIDTH = 58


@dataclass(frozen=True)
class Answer:
    """
    One answer.

    :param question: What was to be found out.
    :param asked: What was sent, or looked at.
    :param answered: What came, in one line.
    :param status: HTTP status, if it was a response.
    :param code: The first error's code, if it was a refusal.
    :param message: Its text.
    :param headers: Those of :data:`HEADERS` that it had.
    :param value: What was found otherwise.
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
    """Make an answer out of a response, of whatever form."""
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
    """Make an answer out of what was found in responses."""
    return Answer(question, asked, _short(value), value=json_able(value))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(json_able(value), ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:160]}..."


def json_able(value: Any) -> Any:
    """Return a value as JSON keeps it."""
    return json.loads(json.dumps(value, default=str))


@dataclass
class Report:
    """
    One run against one service.

    :param target: What it ran against, in words.
    :param real: Whether that is a real account, as far as the suite was told.
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
        """Yield the lines of the report for people."""
        yield f"{self.requests} requests to {self.target} in {self.seconds:.0f} s"
        removed = len(self.created) - len(self.left)
        yield f"indexes created: {len(self.created)}, removed: {removed}"
        if self.left:
            yield f"STILL THERE, remove them yourself: {', '.join(self.left)}"
        if self.applied_after:
            yield (
                f"writes waited for: {len(self.applied_after)}, applied after "
                f"{min(self.applied_after):.1f} to {max(self.applied_after):.1f} s"
            )
        for question in dict.fromkeys(sorted(answer.question for answer in self.answers)):
            yield ""
            yield question
            for answer in self.answers:
                if answer.question == question:
                    yield f"    {answer.asked:<{WIDTH}} {' '.join(answer.answered.split())}"

    def write(self, path: Path) -> None:
        """Write everything as JSON; the account's id and token are not in it."""
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
