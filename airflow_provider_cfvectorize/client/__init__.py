# SPDX-License-Identifier: Apache-2.0
"""The client for the Vectorize v2 API: requests, inputs, mutations and bulk work, without Airflow."""
