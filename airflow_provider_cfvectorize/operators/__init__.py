# SPDX-License-Identifier: Apache-2.0
"""The operators. Add one in a file of its own, and import it in ``vectors.py`` or ``indexes.py``."""
