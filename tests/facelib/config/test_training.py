import pytest

from facelib.config import AugmentSettings, SettingsError, SslSettings, UnpgSettings, load_settings


def test_defaults_are_the_published_settings():
    ssl, unpg, augment = SslSettings(), UnpgSettings(), AugmentSettings()
    assert (ssl.queue_size, ssl.momentum, ssl.temperature, ssl.margin) == (32768, 0.999, 0.07, 0.1)
    assert (unpg.head, unpg.scale, unpg.margin, unpg.wisk) == ("arcface", 64, 0.5, 1.5)
    assert (augment.num_ops, augment.magnitude) == (4, 16)


@pytest.mark.parametrize("override", ["ssl.momentum=1", "augment.magnitude=32", "unpg.wisk=-1", "model.dropout=1"])
def test_ranges_are_checked(override):
    with pytest.raises(SettingsError, match=override.partition("=")[0]):
        load_settings(None, [override])
