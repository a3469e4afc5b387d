"""`python -m training`: train a bundled model anew, check one, look at the data."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from sencache.errors import SencacheError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()
ASSETS = Path(__file__).parents[1] / "sencache" / "assets"

Arch = Annotated[str, typer.Option(help="wan, cogvideox or ltx")]


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="folder of checkpoints, curves, pictures and the model")],
    arch: Arch = "wan",
    minutes: Annotated[float, typer.Option(help="of training; the latents come on top")] = 60,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    seed: int = 0,
    start: Annotated[Path | None, typer.Option("--from", help="exported tiny-wan to start from")] = None,
    clips: Annotated[int, typer.Option(help="in the training set of the transformer")] = 16_384,
    autoencoder: Annotated[
        float, typer.Option(help="its share of the minutes; 0 keeps the one that the training starts from")
    ] = 0.3,
    autoencoder_from: Annotated[
        Path | None, typer.Option(help="exported model of the same architecture whose autoencoder goes on")
    ] = None,
) -> None:
    """Train; killed and called again with the same folder it goes on. The model ends up in OUT/model."""
    from training import training
    from training.export import export
    from training.families import family

    for folder in filter(None, (start, autoencoder_from)):
        _require_model(folder)
    chosen = family(arch)
    if start is None and arch != "wan":
        start = ASSETS / "tiny-wan"
    plan = training.Plan(chosen, out, minutes, seed, device, start, clips, autoencoder, autoencoder_from)
    export(chosen, training.train(plan), out / "model")
    console.print(f"written to {out / 'model'}")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="exported model")],
    prompts: Annotated[int, typer.Option(help="held-out captions")] = 200,
    shown: Annotated[bool, typer.Option("--shown", help="for comparison: captions as in training")] = False,
    steps: int = 50,
    guidance: float = 4.0,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="folder for the scores and a sheet of clips")] = None,
) -> None:
    """Measure what is right in clips of held-out captions, and what the autoencoder alone gets right."""
    from training import checking, scoring
    from training.families import family_of

    _require_model(folder)
    pipe = checking.load(folder)
    asked = checking.of_model(pipe, prompts, seed, steps, guidance, shown)
    made = list(track(asked, total=prompts, description="clips"))
    psnr, copied = checking.of_autoencoder(family_of(pipe).codec(pipe.vae), prompts, seed)
    rows = [
        *_by_count([(content, seen) for content, seen, _ in made]),
        ("autoencoder", copied),
        ("drawn clips", checking.of_renders(prompts, seed)),
        ("noise", checking.of_noise(min(prompts, 50), seed)),
    ]
    console.print(scoring.table(rows), soft_wrap=True)
    console.print(f"autoencoder: {psnr:.1f} dB")
    if out is not None:
        _write(out, rows, psnr, made)


def _require_model(folder: Path) -> None:
    if not (folder / "model_index.json").is_file():
        raise SencacheError(
            f"{folder} holds no exported model (no model_index.json); give a folder that a training wrote, "
            "as OUT/model"
        )


def _by_count(pairs: list[tuple[Any, Any]]) -> list[tuple[str, Any]]:
    """Scores of all clips, and of those with one, two and three objects."""
    from training.scoring import score

    rows = [("model", score(pairs))]
    for count, name in ((1, "one object"), (2, "two objects"), (3, "three objects")):
        some = [(asked, seen) for asked, seen in pairs if len(asked.things) == count]
        if some:
            rows.append((f"model, {name} ({len(some)})", score(some)))
    return rows


def _write(out: Path, rows: list[tuple[str, Any]], psnr: float, made: list[Any]) -> None:
    from training.captions import write_caption
    from training.pictures import contact_sheet

    out.mkdir(parents=True, exist_ok=True)
    scores = {name: {"right": result.right, "of": result.of} for name, result in rows}
    (out / "scores.json").write_text(json.dumps({"psnr": psnr, **scores}, indent=1))
    first = made[:16]
    contact_sheet(
        [video for *_, video in first], [write_caption(content) for content, *_ in first], out / "clips.png"
    )


@app.command()
def sheet(
    out: Annotated[Path, typer.Argument(help="picture to write")],
    count: int = 16,
    seed: int = 0,
    held_out: Annotated[bool, typer.Option(help="only what training never shows")] = False,
) -> None:
    """Draw clips of the training data, with their captions."""
    from training import clips
    from training.pictures import contact_sheet

    rng = np.random.default_rng(seed)
    sample = [clips.sample_clip(rng, held_out) for _ in range(count)]
    contact_sheet([clips.render(clip) for clip in sample], [clip.caption for clip in sample], out)


def main() -> None:
    """Entry point: errors a user can cause are one line and exit code 2."""
    warnings.simplefilter("ignore")
    try:
        app()
    except SencacheError as error:
        Console(stderr=True, soft_wrap=True).print(
            f"error: {error}", style="red", markup=False, highlight=False
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
