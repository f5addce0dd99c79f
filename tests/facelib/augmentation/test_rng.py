import torch

from facelib.augmentation.rng import new_generator, uniforms


def test_batches_do_not_matter():
    one, two = new_generator(3), new_generator(3)
    assert torch.equal(uniforms(6, 4, one), torch.cat([uniforms(2, 4, two), uniforms(4, 4, two)]))


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    uniforms(2, 3, new_generator(None))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(uniforms(1, 8, new_generator(None)), uniforms(1, 8, new_generator(None)))
