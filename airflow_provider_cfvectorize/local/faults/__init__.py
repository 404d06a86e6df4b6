# SPDX-License-Identifier: Apache-2.0
"""Fault injection of the local server."""
