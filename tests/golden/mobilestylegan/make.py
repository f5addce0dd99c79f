"""Make openvino.npz: what OpenVINO computes from the two networks of the wheel `random-face` (Apache-2.0).

    python -m venv /tmp/ov && /tmp/ov/bin/pip install openvino==2026.4.1
    /tmp/ov/bin/python tests/golden/mobilestylegan/make.py <site-packages>/random_face/data

z [3, 512] → w [3, 512]. styles [3, 23, 512]: two images with one w each, and one whose every layer has its own.
Of each image [3, 1024, 1024]: every 32nd pixel (`grid`), and a square of 32 pixels near the left eye (`patch`).
Of the features of each cut, after the LeakyReLU of the layer: every 8th position of every 16th channel.
"""

import re
import sys
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset8

CUTS = {64: "LeakyRelu_442", 128: "LeakyRelu_542"}
ORDER = ("up", "conv1", "conv2", "to_img")


def main() -> None:
    folder = Path(sys.argv[1])
    core = ov.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    mapping = core.compile_model(str(folder / "MappingNetwork.xml"), "CPU", exact)
    z = np.random.default_rng(2021).standard_normal((3, 512)).astype(np.float32)
    w = np.concatenate([mapping({0: row[None]})[0].copy() for row in z])
    mixed = np.stack([w[(0, 1, 2)[layer % 3]] for layer in range(23)])
    styles = np.stack([np.repeat(w[:1], 23, 0), np.repeat(w[1:2], 23, 0), mixed])
    network = core.compile_model(split_styles(core.read_model(str(folder / "SynthesisNetwork.xml"))), "CPU", exact)
    images, features = [], {cut: [] for cut in CUTS}
    for rows in styles:
        image, *parts = network({f"style{i}": row[None] for i, row in enumerate(rows)}).to_tuple()
        images.append(image[0].copy())
        for cut, part in zip(CUTS, parts, strict=True):
            features[cut].append(part[0, ::16, ::8, ::8].copy())
    images = np.stack(images)
    np.savez(
        Path(__file__).with_name("openvino.npz"),
        z=z,
        w=w,
        order=np.array([row % 3 for row in range(23)]),
        grid=images[:, :, ::32, ::32],
        patch=images[:, :, 470:502, 370:402],
        **{f"features_{cut}": np.stack(values) for cut, values in features.items()},
    )


def split_styles(network: ov.Model) -> ov.Model:
    """The network with an input for each of its 23 modulations, and the features of the cuts as outputs."""
    users = list(network.get_parameters()[0].output(0).get_target_inputs())
    users = sorted((u for u in users if layer_of(u) is not None), key=layer_of)
    inputs = []
    for number, user in enumerate(users):
        style = opset8.parameter([1, 512], np.float32, name=f"style{number}")
        style.output(0).set_names({f"style{number}"})
        user.replace_source_output(style.output(0))
        inputs.append(style)
    # Shapes are also taken from the style: any of them will do.
    for user in list(network.get_parameters()[0].output(0).get_target_inputs()):
        user.replace_source_output(inputs[0].output(0))
    nodes = {node.get_friendly_name(): node for node in network.get_ops()}
    outputs = [network.get_results()[0].input_value(0), *(nodes[name].output(0) for name in CUTS.values())]
    return ov.Model([opset8.result(output) for output in outputs], inputs, "styles")


def layer_of(user: "ov.Input") -> int | None:
    node = user.get_node()
    for i in range(node.get_input_size()):
        name = node.input_value(i).get_node().get_friendly_name()
        if "modulation" in name:
            found = re.match(r"m\.layers\.(\d+)\.(\w+)", name)
            return 1 + int(found[1]) * 10 + ORDER.index(found[2]) if found else 0
    return None


if __name__ == "__main__":
    main()
