from types import SimpleNamespace

from ray.tune.search import Searcher

from ray_jobs.tuning.searchers import SweepSearcher


class Queue:
    """A sweep whose segments are given; those suggested are live until they are removed."""

    def __init__(self, *segments):
        self.waiting, self.live = list(segments), set()
        trial = SimpleNamespace(segments=[SimpleNamespace(parameters={"ssl.margin": 0.1})] * 2)
        self.store = SimpleNamespace(
            segment_uri=lambda number, segment: f"trials/{number}/{segment}", trials={0: trial, 1: trial}
        )

    def next_segment(self, kind):
        assert kind == "search"
        if not self.waiting:
            return None
        self.live.add(self.waiting[0][0])
        return self.waiting.pop(0)


def test_segments_are_suggested_as_they_come():
    searcher = SweepSearcher(Queue((1, 0)), "search", slots=2, first=(0, 0))
    assert searcher.suggest("a") == {"number": 0, "segment": 0, "folder": "trials/0/0", "ssl.margin": 0.1}
    assert searcher.suggest("b") == {"number": 1, "segment": 0, "folder": "trials/1/0", "ssl.margin": 0.1}


def test_no_more_than_fit_at_a_time_and_the_end():
    sweep = Queue((0, 0), (1, 0), (0, 1))
    searcher = SweepSearcher(sweep, "search", slots=2, first=None)
    assert [searcher.suggest(name)["number"] for name in "ab"] == [0, 1]
    assert searcher.suggest("c") is None  # both slots are taken
    sweep.live.remove(0)
    assert searcher.suggest("c")["folder"] == "trials/0/1"
    sweep.live.remove(1)
    assert searcher.suggest("d") is None  # a live trial may still lead to another segment
    sweep.live.clear()
    assert searcher.suggest("d") == Searcher.FINISHED
