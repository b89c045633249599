"""cluster.yaml passes Ray's validation, and has the properties that its comments state."""

import copy
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def workers(config: dict) -> dict:
    types = config["available_node_types"]
    return {name: node for name, node in types.items() if name != config["head_node_type"]}


def test_ray_accepts_the_file(config):
    validate_config(prepare_config(copy.deepcopy(config)))


def test_ray_would_refuse_an_unknown_key(config):
    config["max_worker"] = 3
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(config))


def test_the_head_is_small_and_does_no_work(config):
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]


def test_workers_have_a_gpu_and_run_on_spot(config):
    assert len(workers(config)) >= 2, "a second type for when spot has no capacity for the first"
    for node in workers(config).values():
        assert node["resources"]["GPU"] == 1 and node["resources"]["CPU"] >= 8
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert node["node_config"]["InstanceType"].split(".")[0] in {"g5", "g6"}
        assert 0 <= node["min_workers"] < node["max_workers"] <= config["max_workers"]
    kinds = [node["node_config"]["InstanceType"] for node in workers(config).values()]
    assert len(set(kinds)) == len(kinds)


def test_the_image_carries_the_ray_that_is_installed(config):
    ray = next(line for line in requires("multiclue") or [] if line.startswith("ray["))
    version = ray.split("==")[1]
    assert config["docker"]["image"] == f"rayproject/ray:{version}-py311-gpu"


def test_all_machines_start_from_one_image(config):
    nodes = config["available_node_types"].values()
    assert len({node["node_config"]["ImageId"] for node in nodes}) == 1


def test_every_node_installs_this_checkout(config):
    (mount,) = config["file_mounts"]
    assert config["file_mounts"][mount] == "."
    assert any(command.endswith(mount) for command in config["setup_commands"])
