"""The cluster files, as far as they can be checked without a cloud."""

import fnmatch
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import boto3
import botocore.session
import botocore.validate
import jsonschema
import pytest
import yaml
from moto import mock_aws
from ray._private import ray_constants
from ray._private.runtime_env import packaging
from ray.autoscaler._private.aws import utils as aws_utils
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
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
    "c7i.8xlarge": {"CPU": 32},  # 64 GiB
    "g6.12xlarge": {"CPU": 48, "GPU": 4},  # 192 GiB
    "n2-standard-4": {"CPU": 4},
    "n2-standard-32": {"CPU": 32},
    "g2-standard-48": {"CPU": 48, "GPU": 4},
    "p5.48xlarge": {"CPU": 192, "GPU": 8},
    "a3-highgpu-8g": {"CPU": 208, "GPU": 8},
}
# Fields of compute.instances.insert that these files may use.
GCP_FIELDS = {"machineType", "disks", "scheduling", "serviceAccounts", "metadata", "networkInterfaces", "labels"}
# The oldest NVIDIA driver that runs a CUDA of this major version, from its release notes.
DRIVERS = {12: 525, 13: 580}


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


@pytest.mark.parametrize("kind", ["head", "cpu", "gpu", "h100"])
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


def policy(role):
    return json.loads((FOLDER / f"aws_{role}_policy.json").read_text())


def allowed(document, action):
    """Resources on which a policy allows an action."""
    found = []
    for statement in document["Statement"]:
        assert statement["Effect"] == "Allow"
        actions, resources = (s if isinstance(s, list) else [s] for s in (statement["Action"], statement["Resource"]))
        if any(fnmatch.fnmatchcase(action, a) for a in actions):
            found += resources
    return found


@pytest.fixture
def aws(monkeypatch, tmp_path):
    """An imitation of AWS with the roles and the group of docs/cluster.md; gives cluster.yaml in that group."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "imitation")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps the key pair that it makes in ~/.ssh
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    config = read("aws")
    caches = (aws_utils.resource_cache, aws_utils.client_cache)
    with mock_aws():
        for cache in caches:
            cache.cache_clear()
        ec2 = boto3.client("ec2", config["provider"]["region"])
        iam = boto3.client("iam", config["provider"]["region"])
        for role in ("head", "worker"):
            name = f"facelib-{role}"
            trust = (FOLDER / "aws_trust_policy.json").read_text()
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
            iam.put_role_policy(RoleName=name, PolicyName="facelib", PolicyDocument=json.dumps(policy(role)))
            iam.create_instance_profile(InstanceProfileName=name)
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        group = ec2.create_security_group(GroupName="facelib-nodes", Description="nodes", VpcId=vpc)["GroupId"]
        zone = config["provider"]["availability_zone"]
        subnets = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": [zone]}])["Subnets"]
        for node in config["available_node_types"].values():
            if interfaces := node["node_config"].get("NetworkInterfaces"):
                interfaces[0] |= {"Groups": [group], "SubnetId": subnets[0]["SubnetId"]}
            else:
                node["node_config"]["SecurityGroupIds"] = [group]
        yield config, ec2
    for cache in caches:
        cache.cache_clear()


def all_permissions(ec2):
    return {g["GroupId"]: g["IpPermissions"] for g in ec2.describe_security_groups()["SecurityGroups"]}


@pytest.mark.slow
def test_ray_takes_our_group_image_and_roles_as_they_are(aws):
    config, ec2 = aws
    before = all_permissions(ec2)
    made = bootstrap_aws(prepare_config(config))
    assert all_permissions(ec2) == before  # no group and no rule of Ray's
    assert "IamInstanceProfile" not in made["head_node"]  # which would replace the head's own
    for kind, node in made["available_node_types"].items():
        asked = config["available_node_types"][kind]["node_config"]
        assert asked.items() <= node["node_config"].items(), kind
        assert node["node_config"]["SubnetIds"]
    assert "security_group" not in config["provider"]
    groups = [
        str(n["node_config"].get("SecurityGroupIds") or n["node_config"]["NetworkInterfaces"][0]["Groups"])
        for n in read("aws")["available_node_types"].values()
    ]
    assert len(set(groups)) == 1
    assert re.fullmatch(r"\['sg-\w+'\]", groups[0])


def test_rays_own_group_would_open_ssh_to_the_world(aws):
    config, ec2 = aws
    del config["available_node_types"]["h100"]
    for node in config["available_node_types"].values():
        del node["node_config"]["SecurityGroupIds"]
    bootstrap_aws(prepare_config(config))
    assert "0.0.0.0/0" in json.dumps(all_permissions(ec2))


def calls_of_the_head(config):
    """EC2's operations that Ray calls in the life of two workers, in this imitation."""
    made = bootstrap_aws(prepare_config(config))
    provider = AWSNodeProvider(made["provider"], made["cluster_name"])
    calls = set()
    for resource in (provider.ec2, provider.ec2_fail_fast):
        resource.meta.client.meta.events.register("before-call.ec2", lambda model, **_: calls.add(model.name))
    for kind in ("cpu", "gpu"):
        node_config = made["available_node_types"][kind]["node_config"]
        provider.create_node(node_config, {"ray-node-kind": "worker", "ray-node-status": "new"}, 1)
    first, second = provider.non_terminated_nodes({})
    provider.set_node_tags(first, {"ray-node-status": "up-to-date"})
    assert provider.is_running(first)
    assert provider.internal_ip(first)
    provider.terminate_node(first)
    provider.terminate_nodes([second])
    assert provider.non_terminated_nodes({}) == []
    return calls


def test_the_heads_role_may_do_what_ray_does_and_give_workers_theirs(aws):
    config, _ = aws
    head = policy("head")
    calls = calls_of_the_head(config)
    assert {"RunInstances", "DescribeInstances", "CreateTags", "TerminateInstances"} <= calls
    assert [c for c in calls if not allowed(head, f"ec2:{c}")] == []
    profiles = {k: n["node_config"]["IamInstanceProfile"]["Name"] for k, n in config["available_node_types"].items()}
    assert profiles == {
        "head": "facelib-head",
        "cpu": "facelib-worker",
        "gpu": "facelib-worker",
        "h100": "facelib-worker",
    }
    assert allowed(head, "iam:PassRole") == ["arn:aws:iam::*:role/facelib-worker"]
    tagged = [s["Condition"]["StringEquals"] for s in head["Statement"] if s["Sid"] == "TagAndEndNodesOfThisCluster"]
    assert tagged == [{"ec2:ResourceTag/ray-cluster-name": config["cluster_name"]}]
    for kind, node in config["available_node_types"].items():
        place = node["node_config"]["ImageId"].removeprefix("resolve:ssm:")
        patterns = allowed(head, "ssm:GetParameters")
        assert any(fnmatch.fnmatchcase(f"arn:aws:ssm:eu-central-1::parameter{place}", p) for p in patterns), kind


def test_both_roles_reach_one_bucket_and_workers_nothing_else():
    for role in ("head", "worker"):
        buckets = [r for s in policy(role)["Statement"] for r in [s["Resource"]] if "s3" in str(r)]
        assert buckets == ["arn:aws:s3:::your-bucket", "arn:aws:s3:::your-bucket/*"]
        assert allowed(policy(role), "s3:PutObject") == ["arn:aws:s3:::your-bucket/*"]
    assert {a for s in policy("worker")["Statement"] for a in s["Action"]} == {
        "s3:ListBucket", "s3:GetBucketLocation", "s3:GetObject", "s3:PutObject", "s3:DeleteObject",
        "s3:AbortMultipartUpload"}  # fmt: skip


def test_nodes_have_a_driver_for_the_pinned_cuda():
    constraints = (ROOT / "constraints.txt").read_text()
    cuda = int(re.search(r"^nvidia-cuda-runtime==(\d+)", constraints, re.M)[1])
    disks = read("gcp")["available_node_types"]["gpu"]["node_config"]["disks"]
    family = disks[0]["initializeParams"]["sourceImage"]
    assert int(re.search(r"-nvidia-(\d+)$", family)[1]) >= DRIVERS[cuda]
    for kind, node in read("aws")["available_node_types"].items():  # the family's latest: 595 in October 2026
        place = (
            r"resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-\d\d.04/latest/ami-id"
        )
        assert re.fullmatch(place, node["node_config"]["ImageId"]), kind


def test_google_nodes_use_known_fields():
    config = read("gcp")
    for kind, node in config["available_node_types"].items():
        assert set(node["node_config"]) <= GCP_FIELDS, kind
        for disk in node["node_config"]["disks"]:
            zone = config["provider"]["availability_zone"]
            assert disk["initializeParams"]["diskType"] == f"zones/{zone}/diskTypes/pd-balanced", kind


def test_google_nodes_wait_for_the_driver_and_let_the_container_read():
    config = read("gcp")
    waiting = {
        k: "nvidia-smi" in str(n.get("initialization_commands")) for k, n in config["available_node_types"].items()
    }
    assert waiting == {"head": False, "cpu": False, "gpu": True, "h100": True}
    assert "nvidia-smi" not in str(config["initialization_commands"])  # would never come on CPU nodes
    assert "chown 1000:100 /home/ubuntu/mlflow" in config["initialization_commands"][0]
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert re.fullmatch(r"sudo chgrp 100 (\S+auth_token) && sudo chmod 640 \1", config[commands][0])


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_only_gpu_nodes_pull_the_large_image(name):
    config = read(name)
    images = {"head": config["docker"]["head_image"]}
    for kind in ("cpu", "gpu"):
        node = config["available_node_types"][kind]
        images[kind] = {**config["docker"], **node.get("docker", {})}.get("worker_image", config["docker"]["image"])
    assert {kind: image.endswith("-gpu") for kind, image in images.items()} == {
        "head": False,
        "cpu": False,
        "gpu": True,
    }


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
    assert {"ray_jobs/generate.py", "facelib/data/dataset.py", "configs/quickstart.yaml"} <= set(names)
    assert not [n for n in names if n.startswith(("tests/", "docs/", "benchmarks/", ".venv/", "runs/"))]


def test_data_in_the_clone_is_not_uploaded(tmp_path):
    """600 MB of images beside the code ended in "status code 413" (ray 38566)."""
    clone = tmp_path / "clone"
    (clone / "facelib/data").mkdir(parents=True)
    (clone / ".rayignore").write_text((ROOT / ".rayignore").read_text())
    for name in ("facelib/data/code.py", "configs.yaml", "prepare.sh", "identities.txt", "pairs.csv"):
        (clone / name).write_text("kept")
    left = ("train.rec", "train.idx", "a/IMG_1.JPG", "a/b.jpeg", "lfw.bin", "model.pt", "faces.tar.gz", "data/x.txt",
            "datasets/y/z.txt", "part-0000000.parquet", "lfw.zip", "network-snapshot.pkl")  # fmt: skip
    for name in left:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_bytes(b"x" * 1000)
    archive = tmp_path / "upload.zip"
    packaging.create_package(str(clone), archive, include_gitignore=True, include_parent_dir=False)
    with zipfile.ZipFile(archive) as uploaded:
        files = {name for name in uploaded.namelist() if not name.endswith("/")}
    assert files - {".rayignore"} == {
        "facelib/data/code.py", "configs.yaml", "prepare.sh", "identities.txt", "pairs.csv",
    }  # fmt: skip


def test_versions_are_those_of_the_constraints():
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]
    named = [v for text in text_of_all().values() for v in re.findall(r"rayproject/ray:([\d.]+)-py311", text)]
    assert len(named) >= 5
    assert set(named) == {pinned}
    assert next(yaml.safe_load_all(KUBERNETES.read_text()))["spec"]["rayVersion"] == pinned


FAKE_PYTHON = """#!/bin/sh
case "$*" in
  *sys.prefix*) echo "$PREFIX" ;;
  *"import cv2"*) test -e "$WORLD/libraries" || { echo "no libGL.so.1" >&2; exit 1; } ;;
  "-m pip "*) for last; do :; done; cp "$last" "$WORLD/installed"; echo x >> "$WORLD/pip" ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac
"""
FAKE_SUDO = """#!/bin/sh
test "$1" = -n || exit 9
shift
exec "$@"
"""
FAKE_APT = """#!/bin/sh
echo "$*" >> "$WORLD/apt"
case "$*" in *install*) test -e "$WORLD/no_network" || touch "$WORLD/libraries" ;; esac
"""


class Node:
    """A machine on which pip, sudo and apt-get only write down what they are asked for."""

    def __init__(self, folder):
        self.environment, self.prefix, self.home = (folder / name for name in ("environment", "venv", "home"))
        self.world, self.temporary, programs = (folder / name for name in ("world", "tmp", "bin"))
        for path in (self.environment, self.prefix, self.home, self.world, self.temporary, programs):
            path.mkdir()
        for path in (ROOT / "pyproject.toml", ROOT / "constraints.txt", FOLDER / "install.sh"):
            (self.environment / path.name).write_bytes(path.read_bytes())
        for name, text in {"python": FAKE_PYTHON, "sudo": FAKE_SUDO, "apt-get": FAKE_APT}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.path = f"{programs}:{os.environ['PATH']}"

    def install(self, *arguments):
        before = self.listing()
        done = subprocess.run(
            ["bash", self.environment / "install.sh", *arguments],
            env={"PATH": self.path, "HOME": str(self.home), "PREFIX": str(self.prefix), "WORLD": str(self.world),
                 "REAL_PYTHON": sys.executable, "TMPDIR": str(self.temporary)},
            capture_output=True, text=True,
        )  # fmt: skip
        assert self.listing() == before  # the folder is root's in a container with mounted files
        assert list(self.temporary.iterdir()) == []
        return done

    def listing(self):
        # The folder's own time tells of files that came and went.
        return {p: p.stat().st_mtime_ns for p in (self.environment, *self.environment.iterdir())}

    def lines(self, name):
        path = self.world / name
        return path.read_text().splitlines() if path.exists() else []


def test_nodes_install_what_the_project_asks_for(tmp_path):
    node = Node(tmp_path)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    done = node.install("--list")
    assert done.returncode == 0, done.stderr
    assert set(project["dependencies"]) < set(done.stdout.splitlines())
    assert not node.lines("pip")
    assert node.install().returncode == 0
    assert node.lines("installed") == done.stdout.splitlines()
    assert node.install("--list").stdout == done.stdout  # also when nothing is left to do
    mounts = read("aws")["file_mounts"]
    missing = [local for local in mounts.values() if not local.startswith("~") and not (ROOT / local).exists()]
    assert not missing


def test_nodes_install_once_for_each_environment_and_set_of_versions(tmp_path):
    node = Node(tmp_path)
    (node.world / "libraries").touch()
    for _ in range(2):
        assert node.install().returncode == 0
    assert len(node.lines("pip")) == 1
    assert not node.lines("apt")
    node.prefix = tmp_path / "rebuilt"
    node.prefix.mkdir()
    node.install()
    assert len(node.lines("pip")) == 2
    with (node.environment / "constraints.txt").open("a") as file:
        file.write("tzdata==2026.1\n")
    node.install()
    assert len(node.lines("pip")) == 3


def test_an_environment_that_nobody_may_write_to_has_its_stamp_at_home(tmp_path):
    node = Node(tmp_path)
    (node.world / "libraries").touch()
    for prefix in ("/proc", "/proc", "/sys"):  # not even root writes there
        node.prefix = prefix
        assert node.install().returncode == 0
    assert len(node.lines("pip")) == len(list((node.home / ".cache" / "facelib").iterdir())) == 2


def test_libraries_of_the_system_are_installed_or_named(tmp_path):
    node = Node(tmp_path)
    (node.world / "no_network").touch()
    for _ in range(2):  # no stamp, so it is tried again
        done = node.install()
        assert done.returncode == 1
        assert "libgl1" in done.stderr
        assert "libglib2.0-0" in done.stderr
    assert len(node.lines("pip")) == 2
    (node.world / "no_network").unlink()
    (node.world / "apt").unlink()
    assert node.install().returncode == 0
    assert node.lines("apt") == ["update", "install -y --no-install-recommends libgl1 libglib2.0-0"]


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_asks_for_a_token_on_every_node(name):
    config = read(name)
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        starting = [c for c in config[commands] if "ray start" in c]
        assert starting
        assert all("RAY_AUTH_MODE=token" in c for c in starting)
    assert config["file_mounts"][next(p for p in config["file_mounts"] if p.endswith("auth_token"))].startswith("~")
    modes = [c for c in config["setup_commands"] + config["head_start_ray_commands"] if "auth_token" in c]
    assert len(modes) == 1
    assert re.search(r"chmod 6[04]0 ", modes[0])


def test_kubernetes_makes_the_token_itself():
    cluster, *others = yaml.safe_load_all(KUBERNETES.read_text())
    assert cluster["kind"] == "RayCluster"
    assert [o["kind"] for o in others] == ["PersistentVolumeClaim", "ServiceAccount", "ServiceAccount"]
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    assert cluster["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"  # nothing outside the cluster reaches it
    job = yaml.safe_load((FOLDER / "kubernetes_job.yaml").read_text())
    assert job["spec"]["clusterSelector"]["ray.io/cluster"] == cluster["metadata"]["name"]
    for group in cluster["spec"]["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
        for container in group["template"]["spec"]["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_pods_fit_on_their_machines_and_may_use_bucket_and_volume():
    cluster, claim, *accounts = yaml.safe_load_all(KUBERNETES.read_text())
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    groups = {g["groupName"]: g["template"]["spec"] for g in cluster["spec"]["workerGroupSpecs"]}
    # The head's account also gets the autoscaler's role, so it is not the workers'.
    assert head["serviceAccountName"] == "facelib-head"
    assert {spec["serviceAccountName"] for spec in groups.values()} == {"facelib-worker"}
    assert {a["metadata"]["name"] for a in accounts} == {"facelib-head", "facelib-worker"}
    assert head["securityContext"]["fsGroup"] == 100  # of the images' user
    assert head["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    for kind, (cpus, memory) in {"cpu": (32, 64), "gpu": (48, 192)}.items():
        limits = groups[kind]["containers"][0]["resources"]["limits"]
        assert 0.9 * cpus <= int(limits["cpu"]) <= cpus - 1
        assert 0.8 * memory <= int(limits["memory"].removesuffix("Gi")) <= 0.9 * memory


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


def test_nothing_caps_the_object_store():
    """Without --shm-size Ray gives a container a share of the node's memory; with it, no more than that."""
    for name in ("aws", "gcp"):
        docker = read(name)["docker"]
        assert not [option for option in docker["run_options"] if "shm-size" in option]
        assert not docker.get("disable_shm_size_detection")


def test_gpu_nodes_are_side_by_side():
    config = read("aws")
    assert "," not in config["provider"]["availability_zone"]
    kinds = {k: n["node_config"] for k, n in config["available_node_types"].items() if "GPU" in n["resources"]}
    assert {n["Placement"]["GroupName"] for n in kinds.values()} == {"facelib-gpu"}
    assert kinds["h100"]["NetworkInterfaces"][0]["InterfaceType"] == "efa"
