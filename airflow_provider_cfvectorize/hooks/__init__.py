# SPDX-License-Identifier: Apache-2.0
"""The hook: makes a client from an Airflow connection."""
