# SPDX-License-Identifier: Apache-2.0
"""Receipts of writes, and waits until the writes are applied."""
