"""`python -m puregen_transforms` is the `puregen` command."""

from puregen_transforms.cli.main import app

app()
