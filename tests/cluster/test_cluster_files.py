"""The cluster files, as far as they can be checked without a cloud."""

import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import botocore.session
import botocore.validate
import jsonschema
import pytest
import yaml
from ray._private import ray_constants
from ray._private.runtime_env import packaging
from ray.autoscaler._private.util import prepare_config, validate_config

from facelib.config import load_settings
from ray_jobs.pipeline import stage_settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "clusters"
RAY_UP = {"aws": ROOT / "cluster.yaml", "gcp": FOLDER / "gcp.yaml", "onprem": FOLDER / "onprem.yaml"}
KUBERNETES = FOLDER / "kubernetes.yaml"
# What the providers' pages say of the machines that are asked for.
MACHINES = {
    "m7i.xlarge": {"CPU": 4},
    "c7i.8xlarge": {"CPU": 32},
    "g6.12xlarge": {"CPU": 48, "GPU": 4},
    "n2-standard-4": {"CPU": 4},
    "n2-standard-32": {"CPU": 32},
    "g2-standard-48": {"CPU": 48, "GPU": 4},
}
# Fields of compute.instances.insert that these files may use.
GCP_FIELDS = {"machineType", "disks", "scheduling", "serviceAccounts", "metadata", "networkInterfaces", "labels"}


def read(name):
    return yaml.safe_load(RAY_UP[name].read_text())


def text_of_all():
    return {p: p.read_text() for p in [RAY_UP["aws"], *FOLDER.iterdir()]}


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_accepts_the_file(name):
    validate_config(prepare_config(read(name)))


def test_rays_check_finds_a_typo():
    config = {**read("aws"), "max_wokers": 3}
    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):
        validate_config(prepare_config(config))


def aws_problems(node_config):
    """What EC2's own description of RunInstances says against a node_config."""
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    request = {**node_config, "MinCount": 1, "MaxCount": 1}
    report = botocore.validate.ParamValidator().validate(request, shape).generate_report()
    known = shape.members["InstanceType"].enum
    if node_config.get("InstanceType") not in known:
        report += f"\nno instance type {node_config.get('InstanceType')}"
    for market in [node_config.get("InstanceMarketOptions", {}).get("MarketType", "spot")]:
        if market not in shape.members["InstanceMarketOptions"].members["MarketType"].enum:
            report += f"\nno market {market}"
    return report


@pytest.mark.parametrize("kind", ["head", "cpu", "gpu"])
def test_ec2_knows_every_field_of_its_nodes(kind):
    assert aws_problems(read("aws")["available_node_types"][kind]["node_config"]) == ""


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"InstanceMarketOption": {"MarketType": "spot"}}, "InstanceMarketOption"),
        ({"InstanceType": "c7i.9xlarge"}, "c7i.9xlarge"),
        ({"InstanceMarketOptions": {"MarketType": "cheap"}}, "cheap"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": "large"}}]}, "VolumeSize"),
    ],
)
def test_a_wrong_field_of_a_node_is_found(change, complaint):
    assert complaint in aws_problems({**read("aws")["available_node_types"]["cpu"]["node_config"], **change})


def test_google_nodes_use_known_fields():
    for kind, node in read("gcp")["available_node_types"].items():
        assert set(node["node_config"]) <= GCP_FIELDS, kind


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_nodes_offer_what_their_machines_have_and_the_head_nothing(name):
    types = read(name)["available_node_types"]
    for kind, node in types.items():
        machine = MACHINES[node["node_config"].get("InstanceType") or node["node_config"]["machineType"]]
        assert node["resources"] == ({"CPU": 0} if kind == "head" else machine), kind
    assert all(node["min_workers"] == 0 for node in types.values())  # from zero
    assert read(name)["max_workers"] == sum(node["max_workers"] for node in types.values())


def capacity(name):
    """[(how many nodes, what each offers)] at full size."""
    if name == "kubernetes":
        groups = next(yaml.safe_load_all(KUBERNETES.read_text()))["spec"]["workerGroupSpecs"]
        found = []
        for group in groups:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            offers = {"CPU": int(limits["cpu"]), "GPU": int(limits.get("nvidia.com/gpu", 0))}
            found.append((group["maxReplicas"], offers))
        return found
    types = read(name)["available_node_types"]
    return [(node["max_workers"], node["resources"]) for kind, node in types.items() if kind != "head"]


def fit(pools, nodes):
    """Whether all actors of all pools, (count, demand) each, find a place at once, the largest demands first."""
    free = [dict(offers) for count, offers in nodes for _ in range(count)]
    for count, demand in sorted(pools, key=lambda p: -p[1].get("GPU", 0)):
        for _ in range(count):
            places = [f for f in free if all(f.get(k, 0) >= v for k, v in demand.items() if v)]
            if not places:
                return False
            # What needs no GPU goes where there is none, if it can.
            place = min(places, key=lambda f: f.get("GPU", 0) > 0 and not demand.get("GPU", 0))
            for k, v in demand.items():
                place[k] = place.get(k, 0) - v
    return True


def pools(settings, job):
    """Actors that a job runs at the same time, with what each reserves."""
    g, a, t, d = settings.generate, settings.align, settings.train, settings.data
    if job == "generate":
        return [(g.actors, {"CPU": g.cpus_per_actor, "GPU": g.gpus_per_actor}),
                (a.actors, {"CPU": a.cpus_per_actor, "GPU": a.gpus_per_actor})]  # fmt: skip
    if job.startswith("train"):
        return [(t.workers, {"CPU": t.cpus_per_worker, "GPU": int(t.use_gpu)}),
                (t.workers * (d.readers + 1), {"CPU": d.cpus_per_reader})]  # fmt: skip
    return []


@pytest.mark.parametrize("name", ["aws", "gcp", "kubernetes"])
def test_every_recipe_finds_room(name):
    nodes = capacity(name)
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        settings = load_settings(path)
        for stage in settings.stages:
            assert fit(pools(stage_settings(settings, stage), stage.job), nodes), f"{path.name}, {stage.job}"


def test_what_finds_no_room_is_seen():
    nodes = [(1, {"CPU": 4}), (1, {"CPU": 8, "GPU": 2})]
    assert fit([(2, {"CPU": 4, "GPU": 1})], nodes)
    assert fit([(4, {"CPU": 1}), (2, {"CPU": 4, "GPU": 1})], nodes)
    assert not fit([(3, {"CPU": 1, "GPU": 1})], nodes)
    assert not fit([(1, {"CPU": 9})], nodes)
    assert not fit([(13, {"CPU": 1})], nodes)


def test_what_a_job_uploads_is_small_and_is_the_code(tmp_path):
    package = tmp_path / "package.zip"
    excludes = ray_constants.get_runtime_env_default_excludes()
    packaging.create_package(str(ROOT), package, include_gitignore=True, excludes=excludes)
    names = zipfile.ZipFile(package).namelist()
    assert package.stat().st_size < 2 << 20
    assert {"ray_jobs/generate.py", "facelib/faces.py", "configs/quickstart.yaml"} <= set(names)
    assert not [n for n in names if n.startswith(("tests/", "docs/", "benchmarks/", ".venv/", "runs/"))]


def test_versions_are_those_of_the_constraints():
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]
    named = [v for text in text_of_all().values() for v in re.findall(r"rayproject/ray:([\d.]+)-py311", text)]
    assert len(named) >= 5
    assert set(named) == {pinned}
    assert next(yaml.safe_load_all(KUBERNETES.read_text()))["spec"]["rayVersion"] == pinned


def test_nodes_install_what_the_project_asks_for(tmp_path):
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    script = tmp_path / "install.sh"
    script.write_text((FOLDER / "install.sh").read_text())
    done = subprocess.run(["bash", script, "--list"], capture_output=True, text=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert done.returncode == 0, done.stderr
    assert set(project["dependencies"]) < set(done.stdout.splitlines())
    mounts = read("aws")["file_mounts"]
    missing = [local for local in mounts.values() if not local.startswith("~") and not (ROOT / local).exists()]
    assert not missing


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_asks_for_a_token_on_every_node(name):
    config = read(name)
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        starting = [c for c in config[commands] if "ray start" in c]
        assert starting
        assert all("RAY_AUTH_MODE=token" in c for c in starting)
    assert config["file_mounts"][next(p for p in config["file_mounts"] if p.endswith("auth_token"))].startswith("~")
    assert any("chmod 600" in c for c in config["setup_commands"])


def test_kubernetes_makes_the_token_itself():
    cluster, claim = yaml.safe_load_all(KUBERNETES.read_text())
    assert (cluster["kind"], claim["kind"]) == ("RayCluster", "PersistentVolumeClaim")
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    assert cluster["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"  # nothing outside the cluster reaches it
    job = yaml.safe_load((FOLDER / "kubernetes_job.yaml").read_text())
    assert job["spec"]["clusterSelector"]["ray.io/cluster"] == cluster["metadata"]["name"]
    for group in cluster["spec"]["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
        for container in group["template"]["spec"]["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_nothing_listens_for_the_world_and_no_secret_is_written_down():
    for path, text in text_of_all().items():
        commands = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        assert "0.0.0.0" not in commands, path
        assert all("--host 127.0.0.1" in c or "--host, 127.0.0.1" in c
                   for c in re.findall(r"mlflow,? server,? .{0,40}", commands)), path  # fmt: skip
        assert not re.search(
            r"AKIA[0-9A-Z]{16}|-----BEGIN|(?i:secret|password|token)\s*[:=]\s*['\"]?[\w/+]{12,}", commands
        )
    assert "ray stop" not in "\n".join(read("onprem")["head_start_ray_commands"])
