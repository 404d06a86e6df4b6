# SPDX-License-Identifier: Apache-2.0
"""The sensor that waits until mutations are applied."""
