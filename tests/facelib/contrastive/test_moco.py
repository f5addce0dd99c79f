"""MoCo against the published implementation's numbers, a brute-force queue, and itself on two ranks."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.fake_cuda import StepWatch, fake_cuda
from torch import nn

from facelib.contrastive import MoCo, contrast_accuracy
from facelib.utils import distributed

GOLDEN = Path(__file__).parents[2] / "golden" / "moco_dev.npz"


def small_moco(inputs=6, embedding_size=4, queue_size=10, **settings):
    torch.manual_seed(0)
    return MoCo(nn.Linear(inputs, embedding_size), embedding_size=embedding_size, queue_size=queue_size, **settings)


def views(step, count=3, inputs=6):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(2, count, inputs, generator=generator)


def test_one_step():
    moco = small_moco()
    before = moco.queue.clone()
    query, key = views(0)
    logits, targets = moco(query, key)
    F.cross_entropy(logits, targets).backward()
    assert logits.shape == (3, 11)
    assert targets.tolist() == [0, 0, 0]
    expected_keys = F.normalize(moco.key_encoder(key), dim=1)
    assert torch.allclose(moco.queue[:, :3], expected_keys.T)
    assert torch.equal(moco.queue[:, 3:], before[:, 3:])
    assert moco.query_encoder.weight.grad is not None
    assert all(parameter.grad is None for parameter in moco.key_encoder.parameters())


@pytest.mark.parametrize(
    ("policy", "name"),
    [("fifo", "normal"), ("replace_most_similar", "simQ"), ("replace_least_similar", "dissimQ")],
)
def test_published_implementation(policy, name):
    published = np.load(GOLDEN)
    golden = {key.split("/")[1]: torch.as_tensor(published[key]) for key in published if key.startswith(f"{name}/")}
    encoder = nn.Linear(24, 16)
    encoder.load_state_dict({"weight": golden["W0"], "bias": golden["b0"]})
    moco = MoCo(encoder, 16, queue_size=32, momentum=0.9, temperature=0.07, margin=0.1, queue_policy=policy)
    moco.queue.copy_(golden["queue0"])
    optimizer = torch.optim.SGD(moco.query_encoder.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for step in range(7):
        logits, targets = moco(golden[f"q{step}"], golden[f"k{step}"])
        loss = F.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.allclose(logits, golden[f"logits{step}"], atol=1e-5, rtol=1e-5), step
        assert torch.allclose(loss, golden[f"loss{step}"], atol=1e-5), step
        assert torch.allclose(moco.queue, golden[f"queue_after{step}"], atol=1e-5), step
        assert int(moco.queue_pointer) == int(golden[f"ptr{step}"]), step
        assert torch.allclose(moco.query_encoder.weight, golden[f"Wq_after{step}"], atol=1e-5), step
        assert torch.allclose(moco.key_encoder.weight, golden[f"Wk_after{step}"], atol=1e-5), step


@pytest.mark.parametrize("policy", ["fifo", "replace_most_similar", "replace_least_similar"])
@pytest.mark.parametrize("queue_size", [7, 8, 12, 13])
def test_queue_against_plain_loops(policy, queue_size):
    moco = small_moco(queue_size=queue_size, queue_policy=policy)
    columns, pointer, written = list(moco.queue.T.clone()), 0, 0
    for step in range(8):
        query, key = views(step, count=5)
        moco(query, key)
        old, full = torch.stack(columns), written >= queue_size
        for k in F.normalize(moco.key_encoder(key), dim=1).detach():
            if policy == "fifo" or not full:
                columns[pointer] = k
                pointer, written = (pointer + 1) % queue_size, written + 1
            elif policy == "replace_most_similar":
                columns[int((old @ k).argmax())] = k
            else:
                columns[int((old @ k).argmin())] = k
        assert torch.allclose(moco.queue.T, torch.stack(columns), atol=1e-6)
        assert int(moco.queue_pointer) == pointer
        assert int(moco.queue_filled) == min(written, queue_size)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("batch_negatives", [False, True])
@pytest.mark.parametrize("exclude_same_identity", [False, True])
def test_options_against_plain_loops(symmetric, batch_negatives, exclude_same_identity):
    options = {
        "symmetric": symmetric,
        "batch_negatives": batch_negatives,
        "exclude_same_identity": exclude_same_identity,
    }
    moco = small_moco(queue_size=14, temperature=0.5, margin=0.2, **options)
    batches = [[3, 4, 5], [4, 3, 3], [9, 3, 4]]
    for step, batch in enumerate(batches):
        identities = torch.tensor(batch)
        queue = moco.queue.clone()
        queue_identities = moco.queue_identities.tolist() if exclude_same_identity else None
        query, key = views(step)
        logits, targets = moco(query, key, identities)
        encoded = [F.normalize(moco.key_encoder(x), dim=1) for x in ((key, query) if symmetric else (key,))]
        sources = (query, key) if symmetric else (query,)
        rows = []
        for x, own_keys in zip(sources, encoded):
            for i, q in enumerate(F.normalize(moco.query_encoder(x), dim=1)):
                row = [q @ own_keys[i] - 0.2]
                for j in range(14):
                    hidden = exclude_same_identity and queue_identities[j] == batch[i]
                    row.append(torch.tensor(-torch.inf) if hidden else q @ queue[:, j])
                for keys in encoded if batch_negatives else ():
                    for j in range(3):
                        hidden = i == j or (exclude_same_identity and batch[i] == batch[j])
                        row.append(torch.tensor(-torch.inf) if hidden else q @ keys[j])
                rows.append(torch.stack(row) / 0.5)
        assert torch.allclose(logits, torch.stack(rows), atol=1e-5)
        assert targets.tolist() == [0] * len(rows)
        gradient = torch.autograd.grad(F.cross_entropy(logits, targets), moco.query_encoder.weight)[0]
        assert gradient.isfinite().all()
    if exclude_same_identity:
        expected = [-1] * 14
        enqueued = [identity for batch in batches for identity in batch * (2 if symmetric else 1)]
        for position, identity in enumerate(enqueued):
            expected[position % 14] = identity
        assert moco.queue_identities.tolist() == expected


def test_eval_mode_changes_nothing():
    moco = small_moco().eval()
    with torch.no_grad():
        moco.query_encoder.weight.add_(1.0)
    before = {name: value.clone() for name, value in moco.state_dict().items()}
    moco(*views(0))
    assert all(torch.equal(before[name], value) for name, value in moco.state_dict().items())


def train(moco, optimizer, steps):
    losses = []
    for step in steps:
        logits, targets = moco(*views(step))
        loss = F.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("policy", ["fifo", "replace_least_similar"])
def test_resume_continues_bit_for_bit(policy, tmp_path):
    moco = small_moco(queue_policy=policy)
    optimizer = torch.optim.SGD(moco.parameters(), lr=0.1, momentum=0.9)
    train(moco, optimizer, range(5))
    torch.save({"moco": moco.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")
    straight = train(moco, optimizer, range(5, 10))

    torch.manual_seed(99)
    resumed = MoCo(nn.Linear(6, 4), embedding_size=4, queue_size=10, queue_policy=policy, seed=7)
    optimizer = torch.optim.SGD(resumed.parameters(), lr=0.1, momentum=0.9)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed.load_state_dict(checkpoint["moco"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    assert train(resumed, optimizer, range(5, 10)) == straight
    assert torch.equal(resumed.queue, moco.queue)


def test_projection_head_learns_and_is_averaged():
    moco = small_moco(projection_size=3, momentum=0.5)
    logits, targets = moco(*views(0))
    F.cross_entropy(logits, targets).backward()
    assert moco.queue.shape == (3, 10)
    query_weight, key_weight = moco.query_projection[0].weight, moco.key_projection[0].weight
    assert query_weight.grad is not None
    with torch.no_grad():
        query_weight.add_(1.0)
    expected = 0.5 * key_weight + 0.5 * query_weight
    moco(*views(1))
    assert torch.allclose(key_weight, expected)


def test_first_queue_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = MoCo(nn.Linear(6, 4), 4, 10, seed=3)
    torch.manual_seed(2)
    assert torch.equal(first.queue, MoCo(nn.Linear(6, 4), 4, 10, seed=3).queue)
    assert not torch.equal(first.queue, MoCo(nn.Linear(6, 4), 4, 10, seed=4).queue)
    assert torch.allclose(first.queue.norm(dim=0), torch.ones(10))


def test_autocast_keeps_logits_and_queue_in_float32():
    moco = small_moco(queue_size=64)
    query, key = views(0)
    exact, _ = small_moco(queue_size=64)(query, key)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert moco.query_encoder(query).dtype == torch.bfloat16
        logits, targets = moco(query, key)
        F.cross_entropy(logits, targets).backward()
    assert logits.dtype == moco.queue.dtype == torch.float32
    assert torch.allclose(moco.queue.norm(dim=0), torch.ones(64), atol=1e-6)
    # Only the encoder was rounded: about 3 digits of a cosine, over the temperature.
    assert torch.allclose(logits, exact, atol=0.02 / 0.07)
    assert not torch.equal(logits, exact)


def test_contrast_accuracy_counts_rows_won_by_the_positive():
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [3.0, -1.0, 1.0], [1.0, 1.0, 0.0]])
    assert contrast_accuracy(logits) == 0.5


def test_top_5_accuracy_counts_rows_with_fewer_than_five_larger_negatives():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 21, generator=generator)
    logits[0, 1:] = logits[0, 0]  # as large as the positive counts as larger
    logits[1, 3] = torch.nan
    larger = [sum(1 for n in row[1:] if not row[0] > n) for row in logits.tolist()]
    for top in (1, 5):
        assert contrast_accuracy(logits, top).item() == pytest.approx(sum(n < top for n in larger) / 200)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("embedding_size", 0),
        ("queue_size", 0),
        ("momentum", 1.5),
        ("temperature", 0.0),
        ("temperature", float("inf")),
        ("margin", -0.1),
        ("queue_policy", "lifo"),
        ("projection_size", 0),
    ],
)
def test_bad_setting_is_named(setting, value):
    with pytest.raises(ValueError, match=f"{setting}={value!r}"):
        MoCo(nn.Linear(6, 4), **{"embedding_size": 4, "queue_size": 8, setting: value})


def test_bad_batches_are_named():
    query, key = views(0)
    with pytest.raises(ValueError, match="query has 3 rows, key has 2"):
        small_moco()(query, key[:2])
    with pytest.raises(ValueError, match="enqueues 3 keys but queue_size=2"):
        small_moco(queue_size=2)(query, key)
    with pytest.raises(ValueError, match=r"shape \[3, 4\], expected \[3, 5\]"):
        MoCo(nn.Linear(6, 4), embedding_size=5, queue_size=8)(query, key)
    with pytest.raises(ValueError, match=r"identities of shape \[3\] in forward, got None"):
        small_moco(exclude_same_identity=True)(query, key)


def _train_my_share(settings, batch_norm):
    """Ten steps under DDP on this rank's rows; with one process, on all rows."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)) if batch_norm else nn.Linear(6, 4)
    moco = MoCo(encoder, embedding_size=4, queue_size=19, momentum=0.9, **settings)
    optimizer = torch.optim.SGD(moco.parameters(), lr=0.1, momentum=0.9)
    ranks, rank = distributed.world_size(), distributed.rank()
    wrapped = nn.parallel.DistributedDataParallel(moco, forward_sync_buffers=False) if ranks > 1 else moco
    all_logits = []
    for step in range(10):
        query, key = views(step, count=6)
        identities = torch.tensor([0, 1, 2, 3, 1, 2])
        mine = slice(rank * 6 // ranks, (rank + 1) * 6 // ranks)
        logits, targets = wrapped(query[mine], key[mine], identities[mine])
        loss = F.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        all_logits.append(logits.detach())
    return all_logits, moco.state_dict()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"queue_policy": "replace_most_similar"},
        {"queue_policy": "replace_least_similar"},
        {"batch_negatives": True, "exclude_same_identity": True},
        {"symmetric": True, "projection_size": 3},
    ],
    ids=lambda settings: ",".join(settings) or "default",
)
def test_two_ranks_equal_one_with_the_whole_batch(gloo_pool, settings):
    expected_logits, expected_state = _train_my_share(settings, False)
    (first_logits, first_state), (second_logits, second_state) = gloo_pool.run(_train_my_share, settings, False)
    for expected, first, second in zip(expected_logits, first_logits, second_logits):
        if settings.get("symmetric"):  # rows are ordered by direction, then row
            both = torch.cat([first[:3], second[:3], first[3:], second[3:]])
        else:
            both = torch.cat([first, second])
        assert torch.allclose(both, expected, atol=1e-4)
    for name, value in expected_state.items():
        assert torch.allclose(first_state[name], value, atol=1e-5), name
        assert torch.equal(first_state[name], second_state[name]), name


def _key_batch_statistics():
    moco = MoCo(nn.BatchNorm1d(6, affine=False), embedding_size=6, queue_size=12, seed=5)
    query, key = views(0, count=8)
    rank = distributed.rank()
    moco(query[rank * 4 : rank * 4 + 4], key[rank * 4 : rank * 4 + 4])
    return moco.queue[:, :8].T, moco.key_encoder.running_mean


def test_keys_are_shuffled_across_ranks_and_put_back(gloo_pool):
    (keys, first_mean), (other_keys, second_mean) = gloo_pool.run(_key_batch_statistics)
    _, key = views(0, count=8)

    # Which rows a rank saw follows from its running mean (momentum 0.1): not its own four.
    def rows_with_mean(mean):
        fours = itertools.combinations(range(8), 4)
        return [rows for rows in fours if torch.allclose(0.1 * key[list(rows)].mean(0), mean, atol=1e-6)]

    (first_rows,), (second_rows,) = rows_with_mean(first_mean), rows_with_mean(second_mean)
    assert sorted(first_rows + second_rows) == list(range(8))
    assert set(first_rows) not in ({0, 1, 2, 3}, {4, 5, 6, 7})
    expected = torch.empty(8, 6)
    for rows in (first_rows, second_rows):
        normalized = F.batch_norm(key[list(rows)], None, None, training=True)
        expected[list(rows)] = F.normalize(normalized, dim=1)
    assert torch.allclose(keys, expected, atol=1e-5)
    assert torch.equal(keys, other_keys)


@pytest.mark.parametrize("policy", ["fifo", "replace_most_similar", "replace_least_similar"])
@pytest.mark.parametrize(
    "options",
    [{}, {"symmetric": True, "batch_negatives": True, "exclude_same_identity": True, "projection_size": 3}],
    ids=["published", "all options"],
)
@pytest.mark.parametrize("ranks", [1, 4])
def test_a_step_on_a_gpu_waits_for_nothing(policy, options, ranks):
    with fake_cuda(ranks):
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4))
        moco = MoCo(encoder, 4, 100, queue_policy=policy, preprocess=lambda x: x / 255, **options).to("cuda")
        query = torch.zeros(6, 3, 2, 2, dtype=torch.uint8, device="cuda")
        identities = torch.zeros(6, dtype=torch.long, device="cuda")
        with StepWatch() as step:
            logits, targets = moco(query, query, identities)
            F.cross_entropy(logits, targets).backward()
    assert all(p.grad is not None for p in moco.query_encoder.parameters())
    assert step.operations["_foreach_lerp_"] == 1
    views = 2 if options else 1
    if ranks == 1:
        assert not step.collectives
    else:  # images to one rank each, keys once to all
        assert step.collectives == {"alltoall_base": views, "_allgather_base": views + bool(options)}
        assert step.received_bytes["alltoall_base"] == views * 6 * 12  # uint8, before `preprocess`


def test_a_state_with_the_counter_of_steps_as_a_buffer_is_loaded():
    moco = small_moco()
    moco(*views(0))
    state = moco.state_dict()
    assert torch.equal(state["steps"], torch.tensor(1))
    loaded = small_moco()
    loaded.load_state_dict({**state, "steps": torch.tensor(7)})
    assert loaded.steps == 7


@pytest.mark.parametrize("steps", [0, 2, 5, 7])
@pytest.mark.parametrize("size", [6, 10, 17])
def test_a_queue_of_another_length_keeps_the_newest_keys(steps, size):
    moco = small_moco(exclude_same_identity=True)
    keys, people = [], []
    for step in range(steps):
        who = torch.arange(3) + 3 * step
        moco(*views(step), who)
        keys += list(F.normalize(moco.key_encoder(views(step)[1]), dim=1).detach())
        people += who.tolist()
        if step < steps - 1:
            moco.query_encoder.weight.data.add_(0.1)
    taken = MoCo(nn.Linear(6, 4), 4, queue_size=size, exclude_same_identity=True, seed=5)
    fresh = taken.queue.clone()
    taken.load_state_dict(moco.state_dict())
    kept = min(len(keys), 10, size)
    assert int(taken.queue_filled) == kept
    assert int(taken.queue_pointer) == (kept if size != 10 else 3 * steps) % size
    if size != 10:  # oldest first, then random columns as at the start
        assert taken.queue_identities.tolist() == people[len(people) - kept :] + [-1] * (size - kept)
        for column in range(kept):
            assert torch.allclose(taken.queue[:, column], keys[len(keys) - kept + column], atol=1e-6)
        assert torch.equal(taken.queue[:, kept:], fresh[:, kept:])
    taken.train()
    taken(*views(9), torch.arange(3))
    assert int(taken.queue_filled) == min(kept + 3, size)


def test_a_queue_of_another_width_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        MoCo(nn.Linear(6, 5), 5, queue_size=7).load_state_dict(small_moco().state_dict())
