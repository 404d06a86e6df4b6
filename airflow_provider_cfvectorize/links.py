# SPDX-License-Identifier: Apache-2.0
"""The link from a task to its index in Cloudflare's dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_provider_cfvectorize.client.inputs.names import check_account_id, check_path_name
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

if TYPE_CHECKING:
    from collections.abc import Callable

DASHBOARD: Final = "https://dash.cloudflare.com"


class VectorizeIndexLink(BaseOperatorLink):
    """
    Links to a task's index in Cloudflare's dashboard.

    The link needs only the operator's own attributes: no request, XCom or connection. Airflow 3 makes it on
    the worker each time the task ends or defers, Airflow 2 in the webserver, without rendered templates.

    - ``/<account>/ai/vectorize`` lists the indexes. The dashboard's navigation has this path.
    - ``/<account>/ai/vectorize/<index>`` is the page of one index. Cloudflare does not document it; a public
      list of the dashboard's pages, which its authors checked, has it. If Cloudflare removes the page, the
      link still opens the dashboard at the account.
    - ``/?to=/:account/...`` is Cloudflare's documented link for all users: the dashboard lets them choose the
      account. The link has this form if the task does not know its account.

    The URL omits an account that is not 32 hexadecimal digits, and a name that no index can have, such as a
    template that was not rendered. It then leads to the page above.
    """

    name = "Cloudflare dashboard"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """
        Return the URL.

        :param operator: an operator or sensor of this provider.
        :param ti_key: the task instance, unused.
        """
        account_id = _checked(check_account_id, operator, "account_id")
        account_id = account_id or _checked(check_account_id, operator, "used_account")
        index_name = _checked(check_path_name, operator, "index_name")
        page = f"ai/vectorize/{index_name}" if index_name else "ai/vectorize"
        return f"{DASHBOARD}/{account_id}/{page}" if account_id else f"{DASHBOARD}/?to=/:account/{page}"


def _checked(check: Callable[[object], str], operator: Any, name: str) -> str | None:
    # In Airflow 2's webserver, an operator lacks mapped arguments, and its templates are not rendered.
    value = getattr(operator, name, None)
    try:
        return check(value) if isinstance(value, str) else None
    except VectorizeInputError:
        return None
