import pytest
from penalty_cases import Make, two_groups


@pytest.fixture
def make() -> Make:
    return two_groups
