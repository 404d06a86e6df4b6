# SPDX-License-Identifier: Apache-2.0
"""One request: URL, credentials, budget, session, transport, response."""
