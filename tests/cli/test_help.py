"""Help texts of the group and of each command."""

import re

import click
import pytest

from netkit.cli import COMMANDS, cli
from netkit.nets.training.recipe import RECIPES


def command_named(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def test_the_group_lists_every_command_with_the_first_sentence_of_its_help() -> None:
    listed = cli.get_help(click.Context(cli, info_name="netkit")).partition("Commands:\n")[2].splitlines()
    assert [line.split(maxsplit=1) for line in listed] == [
        [name, command_named(name).get_short_help_str(limit=100)] for name in COMMANDS
    ]


def test_the_help_of_train_contains_the_values_of_the_recipes() -> None:
    text = " ".join(command_named("train").get_help(click.Context(command_named("train"))).split())
    for recipe in RECIPES.values():
        values = f"{recipe.epochs} epochs, batch size {recipe.batch_size}, learning rate {recipe.lr} and"
        assert re.search(rf"The recipe {recipe.name} is [\w ]+ with {values} (precision )?{recipe.precision}", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_has_one_line_of_help(name: str) -> None:
    command = command_named(name)
    context = click.Context(command, info_name=name, parent=click.Context(cli, **cli.context_settings))
    lines = command.get_help(context).partition("Options:\n")[2].splitlines()
    options = [param for param in command.params if isinstance(param, click.Option)]
    assert len(lines) == len(options) + 1  # the additional line is --help
    assert max(map(len, lines)) <= 80
