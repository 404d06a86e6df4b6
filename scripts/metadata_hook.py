# SPDX-License-Identifier: Apache-2.0
"""Hatchling's hook in each build: sets the project's URLs and the README for the package index."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# Hatchling loads this file by its path.
sys.path.insert(0, str(Path(__file__).parent))

from project_links import absolute, check_address, urls


class CustomMetadataHook(MetadataHookInterface):
    """The hook. Hatchling expects this name."""

    def update(self, metadata: dict[str, Any]) -> None:
        """
        Set the dynamic fields ``readme`` and ``urls``.

        :param metadata: the project's metadata, with its version.
        """
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if address := self.config["repository"]:
            check_address(address)
            tag = f"v{metadata['version']}"
            text = absolute(Path(self.root), text, address, tag)
            metadata["urls"] = urls(address, tag)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
