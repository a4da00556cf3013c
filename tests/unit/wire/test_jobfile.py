"""A job spec's JSON is signed: the wire writes it byte for byte as the domain does."""

import jsonschema
import pytest
from pydantic import TypeAdapter, ValidationError

from marketplace.domain.job import JobSpec, canonical_json
from marketplace.domain.jobfile import parse_job
from marketplace.wire.jobfile import JobDocument, JobFile
from tests.factories import job_json, make_job

FULL = job_json(
    image="repo/img@sha256:abc",
    env={"EPOCHS": "3"},
    inputs={"sha256": "ab" * 32, "size": 5},
    retry={"on_events": ["error"], "duration": "1h"},
    outputs=[{"path": "/out"}],
    tags={"team": "nlp"},
    units={"name": "request", "max": 10, "max_price": "0.1"},
    egress={"max": "1GB", "max_price": "0.1"},
)


def check(spec: JobSpec) -> None:
    document = JobDocument.of(spec)
    assert canonical_json(document.to_json()) == canonical_json(spec.to_json())
    assert JobDocument.model_validate_json(document.model_dump_json()) == document
    assert parse_job(document.to_json()) == spec


def test_every_part_of_a_spec_is_written() -> None:
    spec = parse_job(FULL)
    check(spec)
    schema = JobDocument.model_json_schema(mode="serialization")
    assert set(JobDocument.of(spec).to_json()) == set(schema["properties"]) - {"workdir"}
    jsonschema.validate(spec.to_json(), schema)


def test_an_unknown_member_is_refused_because_it_would_change_the_hash() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        JobDocument.model_validate({**make_job().to_json(), "other": 1})


def test_the_schema_of_job_files_takes_short_and_normalised_forms() -> None:
    schema = TypeAdapter(JobFile).json_schema()
    for file in (
        job_json(),
        FULL,
        make_job().to_json(),
        {"command": "nvidia-smi", "pricing": {"max_gpu_hour": "1"}, "max_duration": "1h"},
        job_json(resources={"gpu": 1, "cpu": 0.5}),
    ):
        jsonschema.validate(file, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job_json(other=1), schema)
