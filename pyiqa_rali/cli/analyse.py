"""Analyse trained models: attention, reasoning, domains, teachers, efficiency."""

import argparse
import importlib

KINDS = ('attention', 'reasoning', 'domains', 'teachers', 'efficiency')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the kinds and the arguments of each."""
    kinds = parser.add_subparsers(dest='kind', metavar='KIND', title='kinds', required=True)
    for name in KINDS:
        module = module_of(name)
        line = module.__doc__.splitlines()[0]
        module.add_arguments(kinds.add_parser(name, help=line, description=line, allow_abbrev=False))


def run(args: argparse.Namespace) -> int:
    """Run one analysis; it goes on where it was stopped when it is started again with the same arguments."""
    return module_of(args.kind).run(args)


def module_of(kind: str):
    """Import and return the module of one kind."""
    return importlib.import_module(f'pyiqa_rali.cli.analyses.{kind}')
