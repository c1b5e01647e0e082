import pytest


@pytest.fixture(scope="session", autouse=True)
def _compiled():
    """Compile most of the codec before its first test, so that other workers find it in the cache."""
    import loaded_codec  # noqa: F401
