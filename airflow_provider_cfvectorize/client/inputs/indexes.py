# SPDX-License-Identifier: Apache-2.0
"""Settings for a new index, and how an existing one differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.inputs.ids import problem_with_text
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.client.types import INDEX_TYPES, METRICS, IndexType, MetadataIndex
from airflow_provider_cfvectorize.exceptions import VectorizeInputError


def index_config(*, dimensions: object, metric: object, preset: object) -> dict[str, object]:
    """
    Return the configuration of a new index.

    :param dimensions: values in each vector, 32 to 1536. With ``metric``, instead of ``preset``.
    :param metric: ``cosine``, ``euclidean`` or ``dot-product``.
    :param preset: the name of an embedding model that fixes both.
    :raises VectorizeInputError: it is not one or the other, or is out of range.
    """
    given = {"dimensions": dimensions, "metric": metric, "preset": preset}
    config = {name: value for name, value in given.items() if value is not None}
    if list(config) not in (["dimensions", "metric"], ["preset"]):
        raise VectorizeInputError(
            "an index needs either dimensions and metric, or a preset, and not both; got "
            f"{' and '.join(config) or 'none of them'}"
        )
    if preset is not None:
        # Which presets there are is for the service to say: a new one needs no new version of this.
        if not isinstance(preset, str) or not preset:
            raise VectorizeInputError(
                f"preset is {show(preset)}, expected the name of an embedding model, such as "
                "'@cf/baai/bge-base-en-v1.5'"
            )
        return config
    if not isinstance(dimensions, int) or not limits.MIN_DIMENSIONS <= dimensions <= limits.MAX_DIMENSIONS:
        raise VectorizeInputError(
            f"dimensions is {show(dimensions)}, expected a whole number from {limits.MIN_DIMENSIONS} to "
            f"{limits.MAX_DIMENSIONS}: the values in each vector that the embedding model makes"
        )
    if metric not in METRICS:
        raise VectorizeInputError(f"metric {show(metric)} is none of {', '.join(METRICS)}")
    return config


def check_metadata_indexes(value: object) -> dict[str, IndexType]:
    """
    Return the metadata indexes that an index is to have, types by property.

    :raises VectorizeInputError: it is something else, has more than 10, or a name or a type that cannot be.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise VectorizeInputError(
            f"metadata_indexes: got {show(value)}, expected a mapping of properties to types, such as "
            "{'lang': 'string', 'year': 'number'}"
        )
    if len(value) > limits.MAX_METADATA_INDEXES:
        raise VectorizeInputError(
            f"metadata_indexes: got {len(value)}, the most that an index has is {limits.MAX_METADATA_INDEXES}"
        )
    checked: dict[str, IndexType] = {}
    for name, index_type in value.items():
        try:
            checked[check_property_name(name)] = cast(IndexType, check_index_type(index_type))
        except VectorizeInputError as e:
            raise VectorizeInputError(f"metadata_indexes, {show(name)}: {e}") from None
    return checked


def has_preset(index: Mapping[str, Any]) -> bool:
    """Say whether an index says which preset it was created with; that it must is documented nowhere."""
    return _config_of(index).get("preset") is not None


def describe_config(index: Mapping[str, Any]) -> str:
    """Return the configuration of an index as a text."""
    return ", ".join(f"{show(name)}: {show(value)}" for name, value in _config_of(index).items())


def config_differences(index: Mapping[str, Any], config: Mapping[str, object]) -> list[str]:
    """
    Return in what the configuration of an index is not the one wanted; nothing where it is the same.

    :param index: its description, as the service returned it.
    :param config: what is wanted, from :func:`index_config`.
    """
    found = _config_of(index)
    expected = dict(config)
    if "preset" in config and not has_preset(index):
        dimensions = limits.PRESET_DIMENSIONS.get(str(config["preset"]))
        expected = {} if dimensions is None else {"dimensions": dimensions}
    return [
        f"{name}: expected {show(value)}, found {show(found.get(name))}"
        for name, value in expected.items()
        if found.get(name) != value
    ]


def type_differences(indexes: Iterable[MetadataIndex], wanted: Mapping[str, str]) -> list[str]:
    """Return which metadata indexes are of another type than the one wanted."""
    return [
        f"metadata index of {show(index['propertyName'])}: expected "
        f"{show(wanted[index['propertyName']])}, found {show(index['indexType'])}"
        for index in indexes
        if wanted.get(index["propertyName"], index["indexType"]) != index["indexType"]
    ]


def _config_of(index: Mapping[str, Any]) -> Mapping[str, Any]:
    config = index.get("config")
    return config if isinstance(config, Mapping) else {}


def problem_with_key(key: object) -> str | None:
    """Say what is wrong with the name of a property in a filter or metadata index; None if nothing is."""
    if not isinstance(key, str):
        return "is not a string"
    if not key:
        return "is empty"
    levels = key.split(".")
    if not all(levels):
        return "begins or ends with a dot, or has two in a row: between dots stand the names of levels"
    if any(level.startswith("$") for level in levels):
        return (
            "begins, or has a level that begins, with '$': operators belong inside of a property's condition"
        )
    if '"' in key or "|" in key:
        return "has a '\"' or a '|', which a property's name cannot have"
    if len(key) > limits.MAX_FILTER_KEY_CHARS:
        return f"has {len(key)} characters, the most is {limits.MAX_FILTER_KEY_CHARS}"
    return None


def check_property_name(name: object) -> str:
    """Return the name of a property of the metadata, ``.`` for nested ones."""
    problem = problem_with_key(name) or problem_with_text(str(name))
    if problem is not None:
        raise VectorizeInputError(f"property_name {show(name)} {problem}")
    return str(name)


def check_index_type(index_type: object) -> str:
    """Return the type of a metadata index."""
    if not isinstance(index_type, str) or index_type not in INDEX_TYPES:
        raise VectorizeInputError(f"index_type {show(index_type)} is none of {', '.join(INDEX_TYPES)}")
    return index_type
