"""Keep a journal of each run, and of each patched host, in its folder: a stand-in for a lab's own tracker."""

from rtd_plugin.contract import hookimpl


@hookimpl
def rtd_run_started(run, step):
    write(run.folder, f"{run.recipe.adapter}: starting after step {step}")


@hookimpl
def rtd_step_ended(run, report):
    write(run.folder, f"step {report.step}: loss {report.loss:.3f}")


@hookimpl
def rtd_checkpoint_saved(run, checkpoint):
    write(run.folder, f"saved {checkpoint.name}")


@hookimpl
def rtd_run_ended(run, results):
    write(run.folder, f"wrote {results['text_encoder']}")


@hookimpl
def rtd_host_patched(manifest):
    write(manifest.folder, f"{manifest.adapter}: tuned by {manifest.weights.step} steps")


def write(folder, line):
    with (folder / "journal.txt").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
