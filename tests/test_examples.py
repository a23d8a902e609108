import importlib


def test_the_demo_finds_all_that_it_imports() -> None:
    assert callable(importlib.import_module("examples.demo").main)
