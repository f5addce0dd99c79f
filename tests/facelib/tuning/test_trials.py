import math

import pytest

from facelib.data import DatasetError
from facelib.tuning.trials import EpochReport, Trial, TrialSegment, TrialStore, in_order, lineage, replay_segments


def test_reports_update_score_and_epoch():
    trial = Trial(number=1, seed=0, segments=[TrialSegment(parameters={"ssl.margin": 0.1}, stop_epoch=3)])
    values = [(2, 0.9), (1, 0.7), (3, 0.8)]
    trial.add_reports([EpochReport(epoch=e, value=v, seconds=e) for e, v in values], "max", use_last=False)
    assert ([r.epoch for r in trial.reports], trial.score, trial.epoch) == ([1, 2, 3], 0.9, 3)
    trial.add_reports([EpochReport(epoch=3, value=0.1, seconds=9)], "max", use_last=False)  # a known epoch
    assert trial.reports[-1].value == 0.8
    trial.add_reports([EpochReport(epoch=4, value=math.nan, seconds=9)], "max", use_last=True)
    assert (trial.score, trial.epoch) == (0.8, 4)


def test_numbers_that_are_not_finite_are_stored(tmp_path):
    store = TrialStore(f"{tmp_path}")
    trial = Trial(number=1, seed=0, segments=[TrialSegment(parameters={}, stop_epoch=3)])
    report = EpochReport(epoch=1, value=math.nan, seconds=1, metrics={"loss": math.inf, "heldout/auc": math.nan})
    trial.add_reports([report], "max", use_last=False)
    store.save(trial)
    assert trial.score is None
    [again] = TrialStore(f"{tmp_path}").trials[1].reports
    assert math.isnan(again.value)
    assert math.isnan(again.metrics["heldout/auc"])
    assert again.metrics["loss"] == math.inf
    # As it was written by earlier versions.
    (tmp_path / "0001.json").write_text((tmp_path / "0001.json").read_text().replace('"NaN"', "null"))
    assert math.isnan(TrialStore(f"{tmp_path}").trials[1].reports[0].value)


def test_events_of_all_trials_have_one_order(tmp_path):
    store = TrialStore(f"{tmp_path}")
    trials = [Trial(number=n, seed=0, segments=[TrialSegment(parameters={"a": n}, stop_epoch=2)]) for n in (0, 1, 2)]
    happened = []
    for what, number in (("start", 1), ("start", 2), ("report", 2), ("report", 1), ("report", 2), ("end", 2)):
        trial, order = trials[number], store.next_order()
        if what == "start":
            trial.start_order = order
        elif what == "end":
            trial.end_order, trial.state = order, "finished"
        else:
            report = EpochReport(epoch=(trial.epoch or 0) + 1, value=0.5, seconds=1, order=order)
            trial.add_reports([report], "max", use_last=False)
        happened.append((what, number))
        store.save(trial)
    again = TrialStore(f"{tmp_path}")
    assert [(e.kind, e.trial.number) for e in in_order(again.trials.values())] == happened
    assert [e.report.epoch for e in in_order(again.trials.values()) if e.report] == [1, 1, 2]
    assert again.next_order() == len(happened) + 1


def test_a_segment_starts_where_the_one_before_stopped():
    segments = [TrialSegment(parameters={}, stop_epoch=stop) for stop in (2, 5)]
    trial = Trial(number=1, seed=0, segments=segments)
    assert [trial.start_epoch(index) for index in (0, 1)] == [0, 2]


def test_the_lineage_of_a_trial_goes_through_other_trials():
    def segment(strength, stop, warm_start_from):
        return TrialSegment(parameters={"augment.strength": strength}, stop_epoch=stop, warm_start_from=warm_start_from)

    trials = {
        0: Trial(number=0, seed=0, segments=[segment(0.1, 2, None), segment(0.1, 4, (0, 0)), segment(0.5, 6, (1, 1))]),
        1: Trial(number=1, seed=0, segments=[segment(0.3, 2, None), segment(0.4, 4, (1, 0))]),
    }
    segments = lineage(trials, 0)
    assert [s.parameters["augment.strength"] for s in segments] == [0.3, 0.4, 0.5]
    replayed = replay_segments(segments, 7)
    assert [s.warm_start_from for s in replayed] == [None, (7, 0), (7, 1)]
    assert [s.stop_epoch for s in replayed] == [2, 4, 6]


def test_trials_are_stored_on_disk(tmp_path):
    store = TrialStore(f"{tmp_path}/trials")
    trial = Trial(number=3, seed=1, segments=[TrialSegment(parameters={"ssl.margin": 0.1}, stop_epoch=2)])
    store.save(trial)
    trial.state = "finished"
    store.save(trial)
    assert TrialStore(f"{tmp_path}/trials").trials == {3: trial}
    (tmp_path / "trials" / "0004.json").write_text('{"number": 4, ')
    with pytest.raises(DatasetError, match=r"0004\.json: is not a trial of a sweep"):
        TrialStore(f"{tmp_path}/trials")
