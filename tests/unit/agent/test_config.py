import stat
from dataclasses import replace
from pathlib import Path

import pytest

from marketplace.agent.config import AgentConfig, NodeConfig, load_config, read_secret, save_config
from marketplace.agent.errors import AgentConfigError

KEYS = [Path(f"/etc/coulomb/{name}") for name in ("meter.json", "password", "state")]
WHOLE = AgentConfig(
    "http://127.0.0.1:8000", Path("/etc/coulomb/key"),
    NodeConfig(0, "box", "eu", "H100-80GB-SXM", simulated="4xH100", shared=True), *KEYS,
    rpc_url="http://127.0.0.1:8545", escrow="0x" + "e5" * 20,
    interval_ms=1_000, poll_ms=300, stop_grace_ms=0, pids_max=64, allow_unsandboxed=True,
    python_prefix=Path("/opt/env"),
)  # fmt: skip
PLAIN = AgentConfig(
    "https://market.example", Path("/k"),
    NodeConfig(3, "box", "us", "H100-80GB-SXM", gpus=("GPU-1", "GPU-2"), cpu_milli=8000),
    Path("/m"), Path("/p"), Path("/s"),
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.yaml"


@pytest.mark.parametrize("config", [WHOLE, PLAIN], ids=["everything", "defaults"])
def test_saved_config_reads_back_equal(path: Path, config: AgentConfig) -> None:
    save_config(config, path)
    assert load_config(path) == config
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_relative_paths_start_at_the_files_folder(path: Path) -> None:
    save_config(PLAIN, path)
    path.write_text(path.read_text().replace("state_dir: /s", "state_dir: state"))
    assert load_config(path).state_dir == path.parent / "state"


def test_every_mistake_is_named_at_once(path: Path) -> None:
    save_config(WHOLE, path)
    text = path.read_text().replace("poll_ms: 300", "pol_ms: 300")
    text = text.replace("region: eu", "region: 7\n  gpus: [GPU-1]")
    path.write_text(text)
    with pytest.raises(AgentConfigError) as caught:
        load_config(path)
    assert "/pol_ms: unknown key; did you mean poll_ms?" in str(caught.value)
    assert "/node/region: must be text" in str(caught.value)
    assert "/node/gpus: names real GPUs, but the node is simulated" in str(caught.value)


def test_a_node_of_the_tier_cpu_has_no_gpus_to_say_anything_about(path: Path) -> None:
    save_config(replace(WHOLE, node=replace(WHOLE.node, tier="CPU")), path)
    with pytest.raises(AgentConfigError) as caught:
        load_config(path)
    assert "/node/simulated: the tier CPU sells no GPUs; leave it out" in str(caught.value)
    assert "/node/shared: the tier CPU sells no GPUs; leave it out" in str(caught.value)
    plain = replace(PLAIN, node=NodeConfig(3, "box", "us", "CPU"))
    save_config(plain, path)
    assert not load_config(path).node.sells_gpus


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "\0"])
def test_a_file_that_is_no_config_is_refused(path: Path, content: str) -> None:
    with pytest.raises(AgentConfigError, match="cannot be read"):
        load_config(path)  # there is none yet
    path.write_text(content)
    with pytest.raises(AgentConfigError):
        load_config(path)


def test_a_secret_others_can_read_is_refused(path: Path) -> None:
    path.write_text("coul_1\n")
    path.chmod(0o640)
    with pytest.raises(AgentConfigError, match="chmod 600"):
        read_secret(path)
    path.chmod(0o600)
    assert read_secret(path) == "coul_1"


@pytest.mark.parametrize("content", ["", "\n", "a\nb\n"])
def test_a_secret_is_one_line(path: Path, content: str) -> None:
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(AgentConfigError, match="exactly one line"):
        read_secret(path)
