import pyarrow as pa
import pytest

from unet_ray.tables.binary_columns import join_bytes


@pytest.mark.parametrize("values", [[], [b""], [b"ab", b"", b"\0c", b"d" * 300]])
def test_joined_bytes_are_the_column_that_arrow_builds(values: list[bytes]) -> None:
    joined = join_bytes(values)
    joined.validate(full=True)
    assert joined.equals(pa.array(values, pa.binary()))
