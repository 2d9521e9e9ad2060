"""The tests run against the cluster of HAYATE_CLUSTER, each in a directory of its own."""

import uuid

import pytest

import hayate


@pytest.fixture(scope="session")
def fs():
    with hayate.connect() as fs:
        yield fs


@pytest.fixture
def place():
    """A new directory in the cluster."""
    path = f"/test-{uuid.uuid4().hex}"
    hayate.mkdir(path)
    yield path
    hayate.rmtree(path)
