"""Keeps a journal of each run in its folder: the place of a tracker of one's own."""

from rtd_plugin import hookimpl


@hookimpl
def rtd_run_started(run, step):
    write(run, f"{run.recipe.adapter}: starting after step {step}")


@hookimpl
def rtd_step_ended(run, report):
    write(run, f"step {report.step}: loss {report.loss:.3f}")


@hookimpl
def rtd_checkpoint_saved(run, checkpoint):
    write(run, f"saved {checkpoint.name}")


@hookimpl
def rtd_run_ended(run, results):
    write(run, f"wrote {results['text_encoder']}")


def write(run, line):
    with (run.folder / "journal.txt").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
