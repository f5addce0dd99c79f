"""Identities as far as genuine pairs tell."""

import numpy as np

from facelib.evaluation.protocols import identities_of_pairs


def test_identities_are_what_genuine_pairs_connect():
    first, second = np.array([0, 1, 3, 5]), np.array([1, 2, 4, 0])
    people = identities_of_pairs(first, second, np.array([True, True, True, False]), 7)
    assert people[0] == people[1] == people[2] != people[3] == people[4]
    assert people[5] == people[6] == -1
