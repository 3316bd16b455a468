"""What a command says of a run when it is done."""

from talr_cli.runs.run_directory import RunDirectory


def show(directory: RunDirectory) -> None:
    """Print what the run scored, by category too where there are some, and where it lies."""
    results = directory.read_results()
    if results is not None:
        # rich and matplotlib take their time
        from talr_cli.report.categories import rich_categories
        from talr_cli.report.table import print_rich, rich_table

        print_rich(rich_table([results]))
        if (categories := rich_categories(results)) is not None:
            print_rich(categories)
    print(f"run directory: {directory.path}")
