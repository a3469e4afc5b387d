"""The command line's options: what each is called and what `--help` says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from sencache.policies import METHODS

ModelKey = Annotated[
    str,
    Option(
        "--model",
        help="A model of the list that `models` prints, a Hub repository as owner/name, or a folder in the "
        "layout of diffusers.",
    ),
]
Json = Annotated[bool, Option("--json", help="Print JSON for machines instead of a table.")]
Device = Annotated[
    str, Option(help="`cpu` or `cuda`; for `compare` also several GPUs, as in `cuda:0,cuda:1`.")
]
Dtype = Annotated[
    str | None,
    Option(help="`bf16`, `fp16` or `fp32` for all parts; the model's own on a GPU, fp32 on a CPU."),
]
Image = Annotated[Path | None, Option(help="The still that an image-to-video model starts from.")]

Prompt = Annotated[str, Option(help="What the video shows.")]
NegativePrompt = Annotated[str, Option(help="What the video must not show.")]
OutFolder = Annotated[Path, Option(help="Folder for report.json and one video per lane.")]
Methods = Annotated[
    str,
    Option(
        help=f"Lanes, separated by commas: none, fewer-steps, {', '.join([*METHODS][1:])}; "
        "`method:key=value` sets a lane's own knobs, "
        "as in `sencache:tolerance=0.2:repair=replay`."
    ),
]
Steps = Annotated[int | None, Option(help="Sampler steps of the full run; the model's own if not given.")]
Seed = Annotated[int, Option(help="Seed of the noise, the same in every lane.")]
Nfe = Annotated[
    int | None, Option(help="Budget: set every method's knob so that it computes about this many steps.")
]
Preset = Annotated[
    str | None, Option(help="A preset of the profile, `slow` or `fast`; `slow` unless a budget is given.")
]
Settings = Annotated[
    list[str] | None, Option("--set", help="`method.key=value` for all lanes of a method; may be repeated.")
]
Guidance = Annotated[float | None, Option(help="Guidance scale; 1 turns guidance off.")]
Guidance2 = Annotated[
    float | None,
    Option(
        "--guidance-2", help="That of the second transformer of Wan 2.2 A14B; the model's own if not given."
    ),
]
Pixels = Annotated[int | None, Option(help="Pixels; the model's own if not given.")]
Frames = Annotated[
    int | None, Option(help="Frames, 4k+1 (8k+1 for CogVideoX and LTX-Video); the model's own if not given.")
]
Scheduler = Annotated[
    str | None,
    Option(help="`unipc` or `euler` (Wan), `ddim` or `dpm` (CogVideoX); the checkpoint's own if not given."),
]
Shift = Annotated[float | None, Option(help="Shift of a flow-matching schedule, as 3 or 5 on Wan.")]
ProfileFiles = Annotated[
    list[Path] | None,
    Option(
        "--profile",
        help="A profile file, used for the methods that it serves, the model's own for the rest; may be "
        "repeated, the first that serves a method counts.",
    ),
]

OutProfile = Annotated[Path, Option(help="The profile file to write.")]
Samples = Annotated[int, Option(min=1, max=4096, help="Videos to measure; 8 sufficed on tiny-wan.")]
CalibrationMethod = Annotated[
    str,
    Option(
        help="`trajectory`: along the model's own runs. `paper`: at noised latents of real clips, three "
        "evaluations per step, on top of a plain run for the other methods."
    ),
]
Clips = Annotated[Path | None, Option(help="For `paper`: a folder of short videos.")]
MeasuredTarget = Annotated[
    str,
    Option(
        "--target",
        help="Whose change is measured: the network's `output` (as published) or the "
        "`residual` of its blocks.",
    ),
]
Prompts = Annotated[Path | None, Option(help="A file with one prompt a line; the model's own if not given.")]
FirstSeed = Annotated[int, Option(help="Seed of the first sample; the next ones count up.")]

ReportFile = Annotated[Path, Argument(help="A report.json made by compare.")]
UsedProfiles = Annotated[
    list[Path] | None,
    Option("--profile", help="A profile it used that is not at hand; may be repeated."),
]
SchemaName = Annotated[str, Argument(help="`report` or `profile`.")]
ProfileName = Annotated[str, Argument(help="A bundled profile's name, or a file.")]
CheckedFile = Annotated[Path, Argument(help="A profile file.")]

HtmlFile = Annotated[Path | None, Option("--html", help="Draw it into this HTML file.")]
HubFile = Annotated[
    str, Argument(help="A file of the repository: a profile (.json) or sensitivities (.npz).")
]
PulledRepo = Annotated[
    str | None,
    Option("--repo", help="A dataset repository of your own choice, owner/name, instead of the listed one."),
]
Revision = Annotated[
    str | None,
    Option(help="The commit to take it from, 40 hexadecimal digits; the newest of `main` if not given."),
]
OwnToken = Annotated[
    bool, Option("--own-token", help="Send the token of your Hub login, for private and gated repositories.")
]
PulledOut = Annotated[Path | None, Option("--out", help="The profile file to write; FILE.json if not given.")]
PushedRepo = Annotated[
    str, Argument(help="A dataset repository of yours, owner/name; made if it is missing.")
]
PushedName = Annotated[str | None, Option("--name", help="Its name there; that of the file if not given.")]
Private = Annotated[bool, Option("--private", help="Make a new repository private.")]
NpzFile = Annotated[Path, Argument(help="A sensitivity file (.npz) of the SenCache authors' scripts.")]
NpzModel = Annotated[
    str | None, Option("--model", help="The checkpoint it was measured on; known for the official files.")
]
NpzShift = Annotated[
    float | None, Option("--shift", help="The shift of its flow schedule; known for the official files.")
]
NpzLatent = Annotated[
    str | None,
    Option(
        "--latent",
        help="Channels, frames, height, width of its latent, as 16x21x60x104; CogVideoX: frames first.",
    ),
]

ReportFolder = Annotated[Path, Argument(help="A finished comparison: report.json and one video per lane.")]
GalleryTarget = Annotated[
    str,
    Option(
        "--to",
        help="Where the card goes. A folder that exists, or one written with a separator as ./NAME, is a "
        "folder; owner/name is a dataset of yours on the Hub, made if it is missing. Where both could be "
        "meant it is the folder: write hf://datasets/owner/name for the dataset.",
    ),
]
GalleryPlace = Annotated[
    str, Argument(help="A folder of cards, or a dataset at one commit, as owner/name@COMMIT.")
]
CardName = Annotated[
    str | None,
    Option("--name", help="Its folder there; the model, the prompt's first words and a digest if not given."),
]
CardHeight = Annotated[
    int | None,
    Option("--height", help="Most pixels in height; if not given, the long side has at most 480 pixels."),
]
CardProfiles = Annotated[
    list[Path] | None,
    Option(
        "--profile",
        help="A profile that a lane used, unless it is bundled or lies beside the report as profile*.json; "
        "may be repeated.",
    ),
]
ReplaceCard = Annotated[bool, Option("--replace", help="Take the place of a card of that name.")]
