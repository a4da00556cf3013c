"""A job file that cannot be read says why, however it is made."""

from pathlib import Path

import pytest

from marketplace.domain.job import parse_job
from marketplace.sdk.errors import InputError
from marketplace.sdk.jobfile import load_job
from settlement.strict_json import BYTES_MAX

BOMB = "a: &a [x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "aliases are not supported"),
        ("&a [*a]", "aliases are not supported"),
        ("[" * 100_000, "nested deeper than 64 levels"),
        ("name: " + "9" * 5_000, "cannot be parsed"),
        ("name: [", "cannot be parsed"),
        ("# " + "x" * BYTES_MAX, "more than 1048576 bytes"),
        ("!!python/object/apply:os.getcwd []", "cannot be parsed"),
        ("comand: x", "not a valid job"),
    ],
)
def test_file_that_is_no_job_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=why):
        load_job(path)


def test_a_file_without_outputs_brings_all_of_out_back_and_an_empty_list_nothing() -> None:
    job = {"command": "true", "pricing": {"max_gpu_hour": "1"}, "max_duration": "1m"}
    assert load_job(job)[0].outputs == ("/out",)
    spec, _ = load_job({**job, "outputs": []})
    assert spec.outputs == ()
    assert parse_job(spec.to_json(), packed=True).hash() == spec.hash()
    named = {**job, "outputs": [{"path": "/out/a"}]}
    assert load_job(named)[0] == parse_job(named)


def test_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_job(tmp_path / "none.yaml")
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be parsed"):
        load_job(tmp_path / "job.yaml")
