"""Mutation tests of the Solidity sources.

All mutants of all functions are compiled at once, each behind a switch (`schema`): `Mutant.on(k)`
compares k with one word of the bytecode, which is set in the artifact before forge runs the tests
on it (`lanes`). So a mutant costs one start of forge and the tests up to the first that fails.
"""
