# SPDX-License-Identifier: Apache-2.0
"""Requests and responses of the local server."""
