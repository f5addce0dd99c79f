"""Records of pickled arrays; hostile ones are in test_network_pickle.py."""

import pickle

import numpy as np
import pytest

from facelib.synthesis.discofacegan.pickled_arrays import PickledArray, PickledBytes, is_tuple_of, resolve_name
from facelib.utils.safe_pickle import UnsafePickleError, read_pickle


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_smallest_example(order, protocol):
    array = np.asarray(np.arange(6, dtype=np.float32).reshape(2, 3), order=order)
    data = pickle.dumps(array, protocol)
    record = read_pickle(data, resolve_name, make_bytes=lambda content, start: PickledBytes(start, len(content)))
    assert isinstance(record, PickledArray)
    content = data[record.content.start : record.content.start + record.content.size]
    values = np.frombuffer(content, record.dtype.code).reshape(record.shape, order=record.order)
    np.testing.assert_array_equal(values, array)


def test_objects_are_refused():
    with pytest.raises(UnsafePickleError, match="NumPy type 'O8'"):
        read_pickle(pickle.dumps(np.array([{}], dtype=object), 4), resolve_name, make_bytes=PickledBytes)


def test_tuples_of_types():
    assert is_tuple_of((1, "a"), (int, str))
    assert is_tuple_of((1, "a", None), (int, str), prefix=True)
    assert not is_tuple_of((1, "a", None), (int, str))
    assert not is_tuple_of([1, "a"], (int, str))
