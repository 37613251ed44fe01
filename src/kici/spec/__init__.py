"""Ids, states and the compiled-workflow document: Structs, enums and validation, nothing else."""
