import doctest

from unet_ray.imaging import regions


def test_every_number_of_the_worked_example_is_true() -> None:
    found = doctest.testmod(regions)
    assert found.attempted >= 30
    assert found.failed == 0
