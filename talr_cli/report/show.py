"""What a command says of a run when it is done."""

from talr_cli.runs.run_directory import RunDirectory


def show(directory: RunDirectory) -> None:
    """Print where the run lies and what it scored."""
    results = directory.read_results()
    if results is not None:
        from talr_cli.report.table import print_table  # rich and matplotlib take their time

        print_table([results])
    print(f"run directory: {directory.path}")
