# SPDX-License-Identifier: Apache-2.0
"""Faults on purpose."""
