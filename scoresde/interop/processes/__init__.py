"""Processes of other libraries as processes of scoresde.

Each adapter evaluates the functions of the other library's object, so that ``scoresde.sde.check`` tests that object.
Where a library states a process twice, as drift and diffusion and as mean and standard deviation, an adapter reads
both. The conventions of each library are in the docstring of its module and in docs/other_processes.md.
"""
