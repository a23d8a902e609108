"""Longseal beside its peers, in one run and by turns: `python -m tests.bench`, or `make bench`.

It measures and does not judge: what counts is the ratio, since every machine has its own seconds.
"""
