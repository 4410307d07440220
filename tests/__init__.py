import pytest

# Its assertions are told as those in test modules are.
pytest.register_assert_rewrite("tests.flows.site")
