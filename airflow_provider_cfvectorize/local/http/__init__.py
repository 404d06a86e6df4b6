# SPDX-License-Identifier: Apache-2.0
"""The HTTP side of the local server: routes, request bodies, access, limits and responses."""
