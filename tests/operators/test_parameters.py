# SPDX-License-Identifier: Apache-2.0
"""Flags and durations of every operator and the sensor."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators import indexes, vectors
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from harness import INDEX, Vectorize, make_context

CLASSES = [getattr(module, name) for module in (indexes, vectors) for name in module.__all__]
FLAGS = [
    (cls, name)
    for cls in [*CLASSES, VectorizeMutationSensor]
    for name, parameter in inspect.signature(cls.__init__).parameters.items()
    if isinstance(parameter.default, bool)
]
#: Airflow's own flags, which the sensor implements.
FLAGS.append((VectorizeMutationSensor, "soft_fail"))


def make(cls: Any, **kwargs: Any) -> Any:
    named = {"property_name": "lang", "index_type": "string", "max_ids": 5, "filter": {"lang": "en"}}
    required = {
        name: named[name]
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.default is parameter.empty and name in named
    }
    return cls(task_id="task", index_name=INDEX, **required, **kwargs)


@pytest.mark.parametrize(("cls", "name"), FLAGS)
def test_a_flag_must_be_a_bool(cls: Any, name: str) -> None:
    with pytest.raises(VectorizeInputError, match=f"^{name} is 'False', expected True or False"):
        make(cls, **{name: "False"}).execute(make_context())


def test_durations_may_be_timedeltas(vectorize: Vectorize) -> None:
    operator = make(
        vectors.DeleteVectorsByIdsOperator,
        ids=["a"],
        wait_for_completion=True,
        deferrable=True,
        wait_timeout=timedelta(minutes=2),
        poll_interval=timedelta(seconds=3),
    )
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(make_context())
    arguments = deferred.value.trigger.serialize()[1]
    assert (arguments["poll_interval"], arguments["wait_seconds"]) == (3, 120)
    reconcile = make(vectors.ReconcileVectorsOperator, ids=["a"], confirm_after=timedelta(seconds=0.5))
    assert reconcile.confirm_after == 0.5


@pytest.mark.parametrize("name", ["wait_timeout", "poll_interval"])
@pytest.mark.parametrize("value", ["10", None, timedelta(seconds=-1)])
def test_invalid_durations_are_refused(name: str, value: Any) -> None:
    with pytest.raises(VectorizeInputError, match=f"^{name} is .*, expected a number"):
        make(vectors.DeleteVectorsByIdsOperator, ids=["a"], **{name: value}).execute(make_context())


@pytest.mark.parametrize(
    ("cls", "kwargs", "name"),
    [
        (indexes.CreateVectorizeIndexOperator, {"dimensions": 32, "metric": "cosine"}, "metadata_indexes"),
        (vectors.UpsertVectorsOperator, {"vectors_callable": list}, "vectors_kwargs"),
    ],
)
def test_arguments_that_render_to_none_are_refused(
    vectorize: Vectorize, cls: Any, kwargs: dict[str, Any], name: str
) -> None:
    with pytest.raises(VectorizeInputError, match=f"^{name} is 'None' after rendering"):
        make(cls, **kwargs, **{name: "None"}).execute(make_context())
