"""The JSON schemas of jobs say what `domain.job` reads and writes."""

import jsonschema
import pytest
from pydantic import TypeAdapter

from marketplace.domain.job import KEYS, parse_job
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


def test_every_part_of_a_spec_has_a_schema() -> None:
    document, schema = parse_job(FULL).to_json(), TypeAdapter(JobDocument).json_schema()
    assert list(document) == [name for name in schema["properties"] if name != "workdir"]
    assert set(schema["properties"]) == set(KEYS)
    for spec in (document, make_job().to_json()):
        jsonschema.validate(spec, schema)
    with pytest.raises(jsonschema.ValidationError):  # it would change the hash
        jsonschema.validate({**document, "other": 1}, schema)


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
