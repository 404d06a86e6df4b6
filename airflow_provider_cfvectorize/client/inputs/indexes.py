# SPDX-License-Identifier: Apache-2.0
"""Checks the settings of a new index, and compares them with an existing index."""

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
    :raises VectorizeInputError: the combination is invalid, or a value is out of range.
    """
    given = {"dimensions": dimensions, "metric": metric, "preset": preset}
    config = {name: value for name, value in given.items() if value is not None}
    if list(config) not in (["dimensions", "metric"], ["preset"]):
        raise VectorizeInputError(
            "an index needs either dimensions and metric, or a preset, but not both, got "
            f"{' and '.join(config) or 'none of them'}"
        )
    if preset is not None:
        # The service checks the name: a new preset must not need a new release of this package.
        if not isinstance(preset, str) or not preset:
            raise VectorizeInputError(
                f"preset is {show(preset)}, expected the name of an embedding model, such as "
                "'@cf/baai/bge-base-en-v1.5'"
            )
        return config
    if not isinstance(dimensions, int) or not limits.MIN_DIMENSIONS <= dimensions <= limits.MAX_DIMENSIONS:
        raise VectorizeInputError(
            f"dimensions is {show(dimensions)}, expected an integer from {limits.MIN_DIMENSIONS} to "
            f"{limits.MAX_DIMENSIONS}: the number of values in each vector of the embedding model"
        )
    if metric not in METRICS:
        raise VectorizeInputError(f"metric is {show(metric)}, expected one of {', '.join(METRICS)}")
    return config


def check_metadata_indexes(value: object) -> dict[str, IndexType]:
    """
    Return the metadata indexes of a new index, types by property.

    :raises VectorizeInputError: it is not a mapping, or has more than 10 items, or an invalid name or type.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise VectorizeInputError(
            f"metadata_indexes is {show(value)}, expected a mapping of properties to types, such as "
            "{'lang': 'string', 'year': 'number'}"
        )
    if len(value) > limits.MAX_METADATA_INDEXES:
        raise VectorizeInputError(
            f"metadata_indexes has {len(value)} properties, expected at most {limits.MAX_METADATA_INDEXES}"
        )
    checked: dict[str, IndexType] = {}
    for name, index_type in value.items():
        try:
            checked[check_property_name(name)] = cast(IndexType, check_index_type(index_type))
        except VectorizeInputError as e:
            raise VectorizeInputError(f"metadata_indexes, {show(name)}: {e}") from None
    return checked


def has_preset(index: Mapping[str, Any]) -> bool:
    """Return whether the service names the preset of an index, which the documentation does not promise."""
    return _config_of(index).get("preset") is not None


def describe_config(index: Mapping[str, Any]) -> str:
    """Return the configuration of an index as text."""
    return ", ".join(f"{show(name)}: {show(value)}" for name, value in _config_of(index).items())


def config_differences(index: Mapping[str, Any], config: Mapping[str, object]) -> list[str]:
    """
    Return how the configuration of an index differs from the wanted one; empty if it does not.

    :param index: the description from the service.
    :param config: the wanted configuration, from :func:`index_config`.
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
    """Return the metadata indexes that have another type than the wanted one."""
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
    """Return what is wrong with a property's name in a filter or metadata index; None if it is valid."""
    if not isinstance(key, str):
        return "is not a string"
    if not key:
        return "is empty"
    levels = key.split(".")
    if not all(levels):
        return "begins or ends with a dot, or has two in a row: dots separate the names of levels"
    if any(level.startswith("$") for level in levels):
        return "has a level that begins with '$': operators belong in a property's condition"
    if '"' in key or "|" in key:
        return "has a '\"' or a '|', which is not allowed in a property's name"
    if len(key) > limits.MAX_FILTER_KEY_CHARS:
        return f"has {len(key)} characters, expected at most {limits.MAX_FILTER_KEY_CHARS}"
    return None


def check_property_name(name: object) -> str:
    """Return a checked name of a metadata property; ``.`` separates the levels of nested ones."""
    problem = problem_with_key(name) or problem_with_text(str(name))
    if problem is not None:
        raise VectorizeInputError(f"property_name {show(name)} {problem}")
    return str(name)


def check_index_type(index_type: object) -> str:
    """Return a checked type of a metadata index."""
    if not isinstance(index_type, str) or index_type not in INDEX_TYPES:
        raise VectorizeInputError(
            f"index_type is {show(index_type)}, expected one of {', '.join(INDEX_TYPES)}"
        )
    return index_type
