# SPDX-License-Identifier: Apache-2.0
"""What the service acknowledged, and whether it is applied."""
