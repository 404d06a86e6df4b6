# SPDX-License-Identifier: Apache-2.0
"""Any number of ids or vectors: delete, write, read, list, reconcile."""
