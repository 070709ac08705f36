"""netkit doctor."""

from __future__ import annotations

from dataclasses import asdict

import click

from netkit.cli import hints
from netkit.cli.console import print_json, print_table
from netkit.cli.params import json_option


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check what this machine can run.

    Says how to fix what is wrong. Exits with 1 if anything is.
    """
    from netkit.infer.runtime.doctor import examine

    symptoms = list(examine())
    if as_json:
        for symptom in symptoms:
            print_json(asdict(symptom))
    else:
        print_table([{"what": s.what, "right": "yes" if s.right else "NO", "seen": s.seen} for s in symptoms])
        for symptom in symptoms:
            if symptom.mend:
                click.echo(f"{symptom.what}: {symptom.mend}", err=True)
    if not all(symptom.right for symptom in symptoms):
        click.get_current_context().exit(1)
    hints.suggest_infer()
