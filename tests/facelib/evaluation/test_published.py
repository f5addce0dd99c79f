"""Rules of publications, against transcriptions of how their code scores pairs."""

from typing import get_args

import numpy as np
import pytest

from facelib.config import EvaluateSettings
from facelib.evaluation import EvaluationOptions
from facelib.evaluation.protocols.base import FacePairs
from facelib.evaluation.protocols.pairs import PairsProtocol
from facelib.evaluation.protocols.registry import PROTOCOLS, parse_spec
from facelib.evaluation.published import PUBLISHED
from facelib.models.pixels import NORMALIZATIONS
from facelib.utils.flip import flip_rule, join_flipped


def pairs_of(sides, issame):
    """The protocol `pairs` on N = 2P faces, pair i being faces 2i and 2i+1."""
    opened = PairsProtocol.__new__(PairsProtocol)
    opened.first, opened.second = np.arange(0, sides, 2), np.arange(1, sides, 2)
    opened.issame = issame
    assert isinstance(opened, FacePairs)
    return opened


def embeddings(pairs=200, size=6):
    """Embeddings of faces and of their mirror images, float64 [2P, D] each, that know the identities a little."""
    generator = np.random.default_rng(3)
    issame = np.arange(pairs) % 2 == 0
    first, other = generator.normal(size=(2, pairs, size))
    second = np.where(issame[:, None], first, other) + 0.7 * generator.normal(size=(pairs, size))
    plain = np.stack([first, second], axis=1).reshape(2 * pairs, size)
    # A mirror image has a length of its own: normalizing each half would give other cosines.
    flipped = (plain + 0.8 * generator.normal(size=plain.shape)) * generator.uniform(0.3, 3, (2 * pairs, 1))
    return plain, flipped, issame


def measure(source, plain, flipped, issame):
    rules = PUBLISHED[source]
    options = EvaluationOptions((0.1, 0.03), rules.far_rule or "strict", 0, accuracy_rule=rules.accuracy_rule)
    rule = rules.protocols["pairs"]["flip"]
    return pairs_of(len(plain), issame).measure(join_flipped(plain, flipped, rule), options)


def test_unpg_scores_pairs_by_the_cosine_of_concatenated_embeddings():
    plain, flipped, issame = embeddings()
    found = measure("unpg", plain, flipped, issame)
    both = [np.concatenate(pair) for pair in zip(plain, flipped, strict=True)]
    cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(both[::2], both[1::2], strict=True)]
    np.testing.assert_allclose(found.similarities, cosines, atol=1e-12)
    # One threshold for all pairs, the best of their own scores.
    best = max(np.mean([(c >= threshold) == same for c, same in zip(cosines, issame, strict=True)])
               for threshold in cosines)  # fmt: skip
    assert found.report.accuracy == pytest.approx(best, abs=1e-12)
    # TAR at the nearest FAR; of FARs equally near, the largest (the curve is searched from its upper end).
    impostors, genuine = (np.array(cosines)[issame == kind] for kind in (False, True))
    points = sorted(((np.mean(impostors >= t), np.mean(genuine >= t)) for t in [*cosines, np.inf]), reverse=True)
    for far, tar in found.report.tar_at_far.items():
        expected = min(points, key=lambda point: abs(point[0] - far))[1]
        assert tar == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("source", ["usynthface", "insightface"])
def test_usynthface_and_insightface_add_the_flipped_embedding(source):
    plain, flipped, issame = embeddings()
    found = measure(source, plain, flipped, issame)
    unit = [row / np.sqrt(row @ row) for row in plain + flipped]
    distances = np.array([np.sum((a - b) ** 2) for a, b in zip(unit[::2], unit[1::2], strict=True)])
    np.testing.assert_allclose(2 - 2 * found.similarities, distances, atol=1e-12)
    folds = np.array_split(np.arange(len(issame)), 10)
    accuracies = []
    for fold in folds:
        others = np.setdiff1d(np.arange(len(issame)), fold)
        right = [np.mean((distances[others] < t) == issame[others]) for t in np.arange(0, 4, 0.01)]
        threshold = np.arange(0, 4, 0.01)[int(np.argmax(right))]
        accuracies.append(np.mean((distances[fold] < threshold) == issame[fold]))
    assert found.report.accuracy == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert found.report.accuracy_std == pytest.approx(np.std(accuracies), abs=1e-12)


@pytest.mark.parametrize("source", list(PUBLISHED))
def test_rules_name_what_exists(source):
    rules = PUBLISHED[source]
    assert rules.normalization in NORMALIZATIONS
    assert source in get_args(EvaluateSettings.model_fields["published"].annotation)
    for protocol, options in rules.protocols.items():
        assert protocol in PROTOCOLS.names()
        flip_rule(options["flip"])
        text = ",".join(f"{name}={str(value).lower()}" for name, value in options.items())
        assert parse_spec(f"{protocol}({text}):/x").options == options
