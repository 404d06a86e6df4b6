# SPDX-License-Identifier: Apache-2.0
"""The indexes of the local server: logs, jobs, listings and queries."""
