# SPDX-License-Identifier: Apache-2.0
"""The link from a task to its index in Cloudflare's dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_provider_cfvectorize.client.http.urls import check_account_id, check_path_name
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

if TYPE_CHECKING:
    from collections.abc import Callable

DASHBOARD: Final = "https://dash.cloudflare.com"


class VectorizeIndexLink(BaseOperatorLink):
    """
    The index of a task in Cloudflare's dashboard.

    Made of what the operator itself has, without a request, an XCom or a connection: in Airflow 3 on the
    worker each time the task ends or is deferred, in Airflow 2 in the webserver, where nothing is rendered.

    - ``/<account>/ai/vectorize`` lists the indexes: the dashboard's own navigation has that path.
    - ``/<account>/ai/vectorize/<index>`` is the page of one. Cloudflare documents no such address; a public
      list of the dashboard's pages, checked against it by its authors, has it. Were it gone one day, the
      dashboard would still be open at the account.
    - ``/?to=/:account/...`` is Cloudflare's documented form of a link for whoever follows it: the dashboard
      lets them choose the account. It is taken where the task does not know its account.

    An account that is not 32 hexadecimal digits, or a name that no index can have (a template that nobody
    rendered, for one), stays out of the URL, which then leads to the page above.
    """

    name = "Cloudflare dashboard"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """
        Return the URL.

        :param operator: an operator or sensor of this provider.
        :param ti_key: the task instance; it makes no difference.
        """
        account_id = _checked(check_account_id, operator, "account_id")
        account_id = account_id or _checked(check_account_id, operator, "used_account")
        index_name = _checked(check_path_name, operator, "index_name")
        page = f"ai/vectorize/{index_name}" if index_name else "ai/vectorize"
        return f"{DASHBOARD}/{account_id}/{page}" if account_id else f"{DASHBOARD}/?to=/:account/{page}"


def _checked(check: Callable[[object], str], operator: Any, name: str) -> str | None:
    # An operator of Airflow 2's webserver lacks what is mapped, and has templates as they were written.
    value = getattr(operator, name, None)
    try:
        return check(value) if isinstance(value, str) else None
    except VectorizeInputError:
        return None
