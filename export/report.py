"""parity.md: the certificates of a model and its variants, as a page for people."""

from collections.abc import Iterable

from infer.certificate import Certificate

HEAD = """\
| provider | optimised | largest error | bound | PyTorch in float32 | labels changed | accuracy | its change, 95 % |
|---|---|---|---|---|---|---|---|"""


def page(models: Iterable[tuple[str, Certificate]]) -> str:
    """Markdown, a section a model; names are those of their files."""
    sections = (_section(name, certificate) for name, certificate in models)
    return "\n".join(["# Parity with PyTorch", *sections, ""])


def _section(name: str, certificate: Certificate) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in certificate.inputs.items())
    tests = certificate.inputs["test"]
    rows = [
        f"| {each.provider} | {'yes' if each.optimised else 'no'} | {each.error:.2g} | {each.bound:.2g} "
        f"| {each.torch_error:.2g} | {each.changed:,} of {each.test_images:,} | {each.accuracy:.2%} "
        f"| {100 * each.interval[0]:+.2f} to {100 * each.interval[1]:+.2f} points |"
        for each in certificate.comparisons
    ]
    return "\n".join(
        [
            f"\n## {name}\n",
            f"Logits in {certificate.precision}, against PyTorch in float64, on {kinds} images, in batches of "
            f"{', '.join(map(str, certificate.batches))} and shuffled; without optimisation on fewer.\n",
            HEAD,
            *rows,
            f"\nPyTorch's accuracy is {certificate.torch_accuracy:.2%}. The largest error cannot change the labels of "
            f"{tests - len(certificate.at_risk):,} of the {tests:,} test images"
            + (f"; it could those of {_listed(certificate.at_risk)}." if certificate.at_risk else "."),
            f"\nGraph {certificate.graph_sha256}, from weights {certificate.weights_sha256}; "
            f"{', '.join(f'{package} {version}' for package, version in certificate.versions.items())}; "
            f"{certificate.platform}.",
        ]
    )


def _listed(indices: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, indices[:20]))
    return shown if len(indices) <= 20 else f"{shown} and {len(indices) - 20:,} more"
