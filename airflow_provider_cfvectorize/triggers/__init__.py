# SPDX-License-Identifier: Apache-2.0
"""The trigger that polls an index for deferred tasks."""
