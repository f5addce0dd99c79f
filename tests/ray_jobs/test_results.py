"""What a job returns."""

from ray_jobs.results import JobResult


def test_a_result_prints_what_was_written_and_tabulates_its_history():
    history = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]
    result = JobResult(written=("out/faces", "out/heldout"), metrics={"loss": 0.25}, history=history)
    assert str(result) == "out/faces, out/heldout"
    assert result.to_dataframe()["loss"].tolist() == [0.5, 0.25]
    assert JobResult().to_dataframe().empty
