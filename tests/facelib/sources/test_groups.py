from facelib.sources.groups import joined_groups


def test_smallest_example():
    assert joined_groups(5, [(3, 0), (4, 3)]).tolist() == [0, 1, 2, 0, 0]


def test_without_pairs_each_is_alone():
    assert joined_groups(3, []).tolist() == [0, 1, 2]
