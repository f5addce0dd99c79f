"""Images in, embeddings out, in a fresh process that imports MLflow alone."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from support.commands import CEILING_S

from facelib.export import FacePipeline, save_mlflow_model


@pytest.mark.slow
def test_the_mlflow_model_loads_in_a_fresh_process(onnx, portrait, tmp_path):
    model = save_mlflow_model(tmp_path / "model", onnx, portrait, metadata={"checkpoint": "x.pt"})
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "import mlflow, pandas\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "picture = Path(sys.argv[2]).read_bytes()\n"
        "table = model.predict(pandas.DataFrame({'image': [picture, b'?']}))\n"
        "example = model.predict(model.input_example)\n"
        "crop = model.predict(pandas.DataFrame({'image': [picture]}), params={'aligned': True})\n"
        "import facelib\n"
        "print(json.dumps([table.to_dict('list'), len(example), list(crop['rejected']), facelib.__file__,\n"
        "                  model.metadata.metadata, model.metadata.signature.to_dict(), 'torch' in sys.modules]))\n"
    )
    (tmp_path / "portrait.jpg").write_bytes(portrait)
    # -I: neither this folder nor PYTHONPATH; the library the model brought itself is what can be imported.
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(model), str(tmp_path / "portrait.jpg")],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=CEILING_S,
    )
    assert done.returncode == 0, done.stderr
    table, examples, crop, library, metadata, signature, torch_loaded = json.loads(done.stdout.splitlines()[-1])
    here = FacePipeline(onnx)([portrait])[0]
    np.testing.assert_allclose(table["embedding"][0], here["embedding"], atol=1e-5)
    assert (examples, table["faces"]) == (1, [1, 0])
    assert crop == ["128x128 pixels; an aligned face has 112x112"]
    assert library.startswith(str(model))
    assert metadata == {"checkpoint": "x.pt", "image_spec": {"template": "arcface", "size": 112, "color": "RGB"}}
    assert '"image"' in signature["inputs"]
    assert not torch_loaded
    assert not list(model.rglob("*.pkl"))
    with pytest.raises(FileExistsError, match="exists already"):
        save_mlflow_model(model, onnx, portrait)
