# SPDX-License-Identifier: Apache-2.0
"""
The parts of Airflow 3.3's UI that the tests use: their places and names.

This module knows no names of the provider. It needs playwright, which not every environment has: import it
only in tests with a browser.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from playwright.sync_api import FloatRect, Locator, Page, Request, Route, expect

VIEWPORT = {"width": 1280, "height": 900}
#: The viewport of the pictures of dialogs: their text is readable in the width of a phone.
NARROW = {"width": 520, "height": 1000}
#: Pixels of a dialog's edge, with its round corners, that a picture leaves out.
EDGE = 8
#: Timeouts in milliseconds for a page and for a task on a busy machine.
PAGE, TASK = 60_000, 180_000


class Ui:
    """
    Airflow's whole UI.

    :param page: an empty page of a browser.
    :param url: Airflow's URL.
    :param pictures: the directory for pictures.
    """

    def __init__(self, page: Page, url: str, pictures: Path) -> None:
        self.page = page
        self._url = url
        self._pictures = pictures
        page.set_default_timeout(PAGE)
        expect.set_options(timeout=PAGE)

    def picture(self, name: str, *shown: Locator, dialog: bool = False) -> None:
        """
        Take a picture when no toast covers the page.

        :param name: its name.
        :param shown: its content; the picture is cropped to it.
        :param dialog: show a dialog in a narrow window, without its edge.
        """
        size = NARROW if dialog else VIEWPORT
        self.page.set_viewport_size(size)
        self.page.mouse.move(0, size["height"] - 1)
        expect(self.page.get_by_role("status")).to_have_count(0)
        boxes = [self._box(locator.first) for locator in shown]
        edge = EDGE if dialog else 0
        left = min(box["x"] for box in boxes) + edge
        top = min(box["y"] for box in boxes) + edge
        right = min(max(box["x"] + box["width"] for box in boxes) - edge, size["width"])
        bottom = min(max(box["y"] + box["height"] for box in boxes) - edge, size["height"])
        self.page.screenshot(
            path=self._pictures / f"{name}.png",
            animations="disabled",
            caret="hide",
            clip={"x": left, "y": top, "width": right - left, "height": bottom - top},
        )
        self.page.set_viewport_size(VIEWPORT)

    def _box(self, locator: Locator) -> FloatRect:
        """Return the position of an element once it stops moving."""
        last: FloatRect | None = None
        while (box := locator.bounding_box()) is None or box != last:
            last = box
            self.page.wait_for_timeout(250)
        return box

    def open_connections(self) -> Connections:
        """Open Admin, Connections."""
        self.page.goto(self._url)
        self.page.get_by_role("button", name="Admin").click()
        self.page.get_by_role("menuitem", name="Connections").click()
        return Connections(self.page)

    def open_trigger_form(self, dag_id: str) -> TriggerForm:
        """Open a DAG and press Trigger."""
        self.page.goto(f"{self._url}/dags/{dag_id}")
        self.page.get_by_role("button", name="Trigger Dag").click()
        return TriggerForm(self.page)


# --- connections --------------------------------------------------------------------------------------------


class Connections:
    """The list of connections."""

    def __init__(self, page: Page) -> None:
        self._page = page
        page.get_by_role("button", name="Add Connection").wait_for()

    def add(self) -> ConnectionForm:
        """Open the form for a new connection."""
        self._page.get_by_role("button", name="Add Connection").click()
        return ConnectionForm(self._page)

    def edit(self, conn_id: str) -> ConnectionForm:
        """Open the form of an existing connection."""
        self._row(conn_id).get_by_role("button", name="Edit Connection").click()
        return ConnectionForm(self._page)

    def test(self, conn_id: str, *, corrected: bool = True) -> str:
        """
        Press the test button and return the UI's message.

        :param conn_id: the connection.
        :param corrected: send no port. The UI of 3.3.1 and 3.3.2 sends port 0 for no port, and the API
            refuses it as another server's port (apache/airflow#73298).
        """
        if corrected:
            self._page.route("**/connections/test", _without_port_0)
        # Wait until the toast of an earlier test is gone.
        toast = self._page.get_by_role("status").filter(has_text="Test Connection")
        expect(toast).to_have_count(0)
        self._row(conn_id).get_by_role("button", name="Test Connection").click()
        text = toast.inner_text()
        self._page.unroute_all()
        return " ".join(text.split())

    def _row(self, conn_id: str) -> Locator:
        return self._page.get_by_role("row").filter(
            has=self._page.get_by_role("cell", name=conn_id, exact=True)
        )


def _without_port_0(route: Route, request: Request) -> None:
    body = request.post_data_json
    route.continue_(post_data=json.dumps({**body, "port": body["port"] or None}))


@dataclass(frozen=True)
class Field:
    """
    A field of the connection form.

    :param kind: its ``type``; "textarea" for a textarea.
    :param placeholder: the text that it shows while it is empty.
    :param value: its value.
    """

    kind: str
    placeholder: str = ""
    value: str = ""


class ConnectionForm:
    """The form for a new or existing connection."""

    def __init__(self, page: Page) -> None:
        self._dialog = self.box = page.get_by_role("dialog")

    def choose(self, conn_id: str, type_name: str) -> Self:
        """Fill in the id, and choose the type by its name."""
        self._dialog.get_by_label("Connection ID").fill(conn_id)
        self._dialog.get_by_label("Connection Type").fill(type_name)
        self._dialog.page.get_by_role("option", name=type_name, exact=True).click()
        return self

    def fields(self, part: str) -> dict[str, Field]:
        """
        Open a section of the form and return its fields by label.

        :param part: the heading of the section.
        """
        heading = self._dialog.get_by_role("button", name=part, exact=True)
        if heading.get_attribute("aria-expanded") != "true":
            heading.click()
        expect(heading).to_have_attribute("aria-expanded", "true")
        groups = self._dialog.locator(f"[id='{heading.get_attribute('aria-controls')}']").get_by_role("group")
        # The group of a number contains another group for its buttons.
        groups = groups.filter(has=self._dialog.page.locator("label"))
        expect(groups.first).to_be_visible()
        return {group.locator("label").inner_text(): _field(group) for group in groups.all()}

    def fill(self, values: dict[str, str]) -> Self:
        """Type values into the standard fields with these labels; their section must be open."""
        for label, value in values.items():
            self._dialog.get_by_label(label, exact=True).fill(value)
        return self

    def save(self) -> None:
        """Press Save and wait until the form is closed."""
        self._dialog.get_by_role("button", name="Save").click()
        expect(self._dialog).to_be_hidden()


def _field(group: Locator) -> Field:
    box = group.locator("input, textarea")
    return Field(
        str(box.evaluate("box => box.type")), box.get_attribute("placeholder") or "", box.input_value()
    )


# --- runs ---------------------------------------------------------------------------------------------------


class TriggerForm:
    """The form that triggers a run."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._dialog = self.box = page.get_by_role("dialog")

    def fill(self, title: str, value: str) -> None:
        """Type into the field of a param."""
        # The label of a required param ends with an asterisk.
        label = self._page.locator("label", has_text=re.compile(rf"^\s*{re.escape(title)}\s*\*?\s*$"))
        group = self._dialog.get_by_role("group").filter(has=label)
        group.locator("input, textarea").fill(value)

    def trigger(self) -> Run:
        """Press Trigger and follow Airflow to the run."""
        self._dialog.get_by_role("button", name="Trigger").click()
        self._page.wait_for_url(re.compile("/runs/"))
        return Run(self._page)


class Run:
    """A DAG run, with the grid on the left and its tasks on the right."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._url = page.url.rstrip("/")
        #: The corners of the list of tasks, from their ids to their states.
        self.corners = (
            page.get_by_role("columnheader", name="Task ID"),
            page.get_by_role("columnheader").filter(has_text="State"),
            page.get_by_role("row").last.get_by_role("cell").nth(1),
        )

    def wait_for(self, task_id: str, state: str) -> None:
        """Wait until the page shows a task in a state."""
        if self._page.url.rstrip("/") != self._url:
            self._page.goto(self._url)
        row = self._page.get_by_role("row").filter(
            has=self._page.get_by_role("link", name=task_id, exact=True)
        )
        expect(row.get_by_role("cell", name=state, exact=True)).to_be_visible(timeout=TASK)

    def sort_by(self, column: str) -> None:
        """Sort the list of tasks, the lowest value first, until the next wait."""
        self._page.get_by_role("columnheader").filter(has_text=column).get_by_role("button").click()

    def wait_for_success(self) -> None:
        """Wait until the page shows the run as a success, without any other state."""
        expect(self._page.get_by_text("Running", exact=True)).to_have_count(0, timeout=TASK)
        expect(self._page.get_by_text("Success", exact=True).first).to_be_visible()

    def open_task(self, task_id: str) -> Task:
        """Open one of its tasks."""
        self._page.goto(f"{self._url}/tasks/{task_id}")
        return Task(self._page)


class Task:
    """A task instance."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.tab = page.get_by_role("link", name="Logs")
        page.get_by_role("link", name="Audit Log").wait_for()

    def log(self, last: str) -> str:
        """
        Return the displayed log with wrapped lines.

        :param last: a text to wait for.
        """
        self._page.get_by_role("link", name="Logs").click()
        self._page.get_by_role("button", name="Log Settings").click()
        self._page.get_by_role("menuitem", name="Wrap").click()
        lines = self._page.locator("code").first
        expect(lines).to_contain_text(last)
        return " ".join(lines.inner_text().split())

    def xcom(self, key: str) -> Any:
        """Expand all XComs, copy one from the page, and return it."""
        self._page.get_by_role("link", name="Storage").click()
        self._page.get_by_role("link", name="XCom").click()
        self._page.get_by_role("button", name="Expand all").click()
        row = self.row(key)
        self._page.evaluate("navigator.clipboard.writeText('')")
        row.get_by_role("button", name="Copy to clipboard").click()
        copied = self._page.wait_for_function("() => navigator.clipboard.readText()")
        value = json.loads(copied.json_value())
        for name in value if isinstance(value, dict) else ():
            # The page shows each key of the expanded XCom.
            expect(row).to_contain_text(name)
        return value

    def row(self, text: str) -> Locator:
        """Return the row of a table that has a cell with this text."""
        return self._page.get_by_role("row").filter(has=self._page.get_by_role("cell", name=text, exact=True))

    def follow_link(self, name: str, host: str) -> str:
        """
        Press the button of an extra link in the details and return the opened URL.

        :param name: the text on the button.
        :param host: the host of the link; a local page replaces it.
        """
        self._page.context.route(f"https://{host}/**", lambda route: route.fulfill(body="elsewhere"))
        self._page.get_by_role("link", name="Details", exact=True).click()
        with self._page.context.expect_page() as opened:
            self._page.get_by_role("link", name=name, exact=True).click()
        opened.value.wait_for_load_state()
        url = opened.value.url
        opened.value.close()
        return url
