"""Finds problems of this machine, its settings, caches, registries and Slurm, and says what to do about them.

A check is a function that yields findings (finding.py); each module has those of one group, and examination.py puts
them in order.  Nothing is changed: what a probe writes into a cache, it removes.
"""
