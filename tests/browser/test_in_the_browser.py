# SPDX-License-Identifier: Apache-2.0
"""
A user fills in the connection in Airflow's UI, enters ids to delete, and reads the proof.

The expected texts of the UI are written out here and not taken from the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import PROVEN, Vectorize, wait_until

if TYPE_CHECKING:
    from browser.conftest import Clock
    from browser.pages import Ui

pytestmark = [pytest.mark.browser, pytest.mark.airflow(since="3.0")]

#: The tutorial's DAG: the tests take its pictures.
DAG_ID = "forget"
CONN_ID = "cloudflare_vectorize_default"
TUTORIAL_URL = "http://127.0.0.1:8787/client/v4"
WRONG_TOKEN = "a-token-that-has-been-revoked"
KEPT = {f"chunk-{number}" for number in (0, *range(3, 12))}
#: The ids of the tutorial's run.
DOOMED = ["chunk-1", "chunk-2"]


def test_the_connection_form(ui: Ui) -> None:
    from browser.pages import Field

    form = ui.open_connections().add().choose(CONN_ID, "Cloudflare Vectorize")
    # All fields: no port, no schema.
    assert form.fields("Standard Fields") == {
        "Description": Field("textarea"),
        "API base URL": Field("text", "https://api.cloudflare.com/client/v4"),
        "Account ID": Field("text", "32 hexadecimal digits"),
        "API token (or Global API Key)": Field("password"),
    }
    assert form.fields("Extra Fields") == {
        "API e-mail": Field("text"),
        "Timeout (seconds)": Field("text", value="30"),
        "Rate reserve": Field("text", value="0.2"),
    }
    ui.picture("connection-extras", form.box, dialog=True)


def test_delete_and_wait_in_the_ui(ui: Ui, index: Vectorize, clock: Clock) -> None:
    index.fill(KEPT.union(DOOMED))
    connect(ui, index)

    form = ui.open_trigger_form(DAG_ID)
    form.fill("Ids to delete", "\n".join(DOOMED))
    ui.picture("trigger-form", form.box, dialog=True)
    clock.stop()
    run = form.trigger()
    run.wait_for("delete", "Success")
    index.server.reset_stats()
    run.wait_for("wait_until_gone", "Deferred")
    run.sort_by("Start Date")
    ui.picture("run-waiting", *run.corners)
    # The sensor has polled and has to wait.
    wait_until(lambda: index.server.stats()["info"] > 0, 120)
    assert index.ids() == KEPT.union(DOOMED)
    clock.resume()
    run.wait_for("wait_until_gone", "Success")
    run.wait_for_success()
    assert index.ids() == KEPT

    delete = run.open_task("delete")
    assert (
        delete.follow_link("Cloudflare dashboard", "dash.cloudflare.com")
        == f"https://dash.cloudflare.com/{index.server.account_id}/ai/vectorize/docs"
    )
    ui.picture("dashboard-link", delete.tab, delete.row("Operator"))
    receipt = delete.xcom("receipt")
    assert receipt["count"] == len(DOOMED)
    assert set(receipt["witness_ids"]) <= set(DOOMED)

    wait = run.open_task("wait_until_gone")
    evidence = wait.xcom("return_value")
    assert evidence["mutation_id"] == receipt["mutation_id"] == index.watermark()
    assert evidence["outcome"] in PROVEN
    assert evidence["witnesses_checked"] == len(DOOMED)
    assert evidence["still_visible"] == []
    log = wait.log("Applied (")
    assert "Not applied yet: the watermark is " in log
    assert f"Applied ({evidence['outcome']}): mutation {receipt['mutation_id'][:8]} of index" in log
    assert index.server.api_token not in log


def connect(ui: Ui, index: Vectorize) -> None:
    """Create the connection, first with a token that the server refuses."""
    connections = ui.open_connections()
    form = connections.add().choose(CONN_ID, "Cloudflare Vectorize")
    form.fill({"Account ID": index.server.account_id, "API token (or Global API Key)": WRONG_TOKEN})
    # The picture shows the address of the tutorial's server.
    form.fill({"API base URL": TUTORIAL_URL})
    ui.picture("connection-form", form.box, dialog=True)
    form.fill({"API base URL": index.server.base_url}).save()

    said = connections.test(CONN_ID)
    assert said.startswith("Test Connection Failed")
    assert "Check, in this order: the API token in the connection's password is complete" in said
    assert WRONG_TOKEN not in said

    connections.edit(CONN_ID).fill({"API token (or Global API Key)": index.server.api_token}).save()
    assert (
        connections.test(CONN_ID)
        == f"Test Connection Successful Account {index.server.account_id} has 1 Vectorize index"
    )
    # While this holds, docs/troubleshooting.md is right and tests need the correction above.
    assert connections.test(CONN_ID, corrected=False) == "Test Connection Failed Bad Request"
